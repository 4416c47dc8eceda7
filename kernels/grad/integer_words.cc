#include "kernels/grad/integer_words.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/grad/integer_words_cuda.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 65536;

void check(int bits) { QAT_CHECK(bits == 8 || bits == 16, "words of numbers of " + std::to_string(bits) + " bits"); }

template <typename Change>
void change_each(const Exec& exec, std::span<std::int32_t> data, const Change& change) {
  exec.for_ranges(std::ssize(data), kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      std::int32_t& word = data[static_cast<std::size_t>(i)];
      word = static_cast<std::int32_t>(change(static_cast<std::uint32_t>(word)));
    }
  });
}

}  // namespace

void pack_words(const Exec& exec, std::span<std::int32_t> data, int bits) {
  check(bits);
  if (data.empty()) return;
  dispatch(
      exec, "pack_words",
      [&] { change_each(exec, data, [bits](std::uint32_t memory) { return packed_word(memory, bits); }); },
      [&] { pack_words_cuda(exec, data, bits); });
}

void unpack_words(const Exec& exec, std::span<std::int32_t> data, int bits) {
  check(bits);
  if (data.empty()) return;
  dispatch(
      exec, "unpack_words",
      [&] { change_each(exec, data, [bits](std::uint32_t word) { return unpacked_word(word, bits); }); },
      [&] { unpack_words_cuda(exec, data, bits); });
}

}  // namespace qat::kernels

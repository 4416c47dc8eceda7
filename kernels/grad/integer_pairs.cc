#include "kernels/grad/integer_pairs.h"

#include "kernels/common/dispatch.h"
#include "kernels/grad/integer_pairs_cuda.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 65536;

// The upper half of a + 65536 b is b or, where a is negative, b - 1.
void shift_pairs(const Exec& exec, std::span<std::int32_t> words, int step) {
  if (words.empty()) return;
  const auto on_cpu = [&] {
    exec.for_ranges(std::ssize(words), kGrainElems, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        std::int32_t& word = words[static_cast<std::size_t>(i)];
        const auto bits = static_cast<std::uint32_t>(word);
        if ((bits & 0x8000U) != 0) word = static_cast<std::int32_t>(bits + (static_cast<std::uint32_t>(step) << 16U));
      }
    });
  };
  dispatch(exec, "shift_pairs", on_cpu, [&] { shift_pairs_cuda(exec, words, step); });
}

}  // namespace

void pack_pairs(const Exec& exec, std::span<std::int32_t> words) { shift_pairs(exec, words, -1); }
void unpack_pairs(const Exec& exec, std::span<std::int32_t> words) { shift_pairs(exec, words, 1); }

}  // namespace qat::kernels

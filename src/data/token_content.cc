#include "src/data/token_content.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "kernels/common/error.h"

namespace qat {
namespace {

// Small enough that hashing and comparing find in the cache what reading has put there.
constexpr std::int64_t kBlockTokens = std::int64_t{1} << 17;

}  // namespace

TokenContent read_content(std::int64_t count, const ReadTokens& read, int vocab_size, const std::string& where,
                          std::int64_t first_byte) {
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> state(XXH3_createState(), XXH3_freeState);
  QAT_CHECK(state != nullptr && XXH3_64bits_reset(state.get()) == XXH_OK, "XXH3 has no state");
  std::vector<std::uint16_t> buffer(static_cast<std::size_t>(std::min(count, kBlockTokens)));
  TokenContent content;
  for (std::int64_t begin = 0; begin < count; begin += kBlockTokens) {
    const auto block = std::span(buffer).first(static_cast<std::size_t>(std::min(kBlockTokens, count - begin)));
    read(begin, block);
    std::uint16_t largest = 0;
    for (const std::uint16_t token : block) largest = std::max(largest, token);  // vectorises
    if (largest >= vocab_size) {
      const auto bad = std::find_if(block.begin(), block.end(), [&](std::uint16_t id) { return id >= vocab_size; });
      const std::int64_t index = begin + (bad - block.begin());
      throw Error(ErrorKind::kData,
                  fmt::format("{}: at byte {} (token {}): expected an id below the model's vocabulary of {}, found {}; "
                              "was the text tokenized for another model? (model.vocab_size)",
                              where, first_byte + index * static_cast<std::int64_t>(sizeof(std::uint16_t)), index,
                              vocab_size, *bad));
    }
    content.largest_id = std::max<int>(content.largest_id, largest);
    (void)XXH3_64bits_update(state.get(), block.data(), block.size_bytes());
  }
  content.hash = XXH3_64bits_digest(state.get());
  return content;
}

}  // namespace qat

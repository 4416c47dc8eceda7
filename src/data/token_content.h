// What reading all tokens of a file or text once tells about them.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>

namespace qat {

struct TokenContent {
  std::uint64_t hash = 0;  // XXH3-64 of the tokens' bytes, as a file holds them behind its header
  int largest_id = 0;

  friend bool operator==(const TokenContent&, const TokenContent&) = default;
};

// Tokens [offset, offset + out.size()).
using ReadTokens = std::function<void(std::int64_t offset, std::span<std::uint16_t> out)>;

// Reads tokens 0 .. count - 1, block by block and in order. Throws kData if one is not below `vocab_size`; `where` and
// `first_byte` (the offset of token 0 in its file) are for the message.
TokenContent read_content(std::int64_t count, const ReadTokens& read, int vocab_size, const std::string& where,
                          std::int64_t first_byte);

}  // namespace qat

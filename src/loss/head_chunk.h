// How the output projection cuts its tokens into chunks: the logits of all of them never exist at once.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

namespace qat {

// Output projections on a GPU have a multiple of this many rows, the last of them zeros: the vocabulary of GPT-2
// (50,257) is odd, and the matrix units want aligned rows of logits. On a CPU Vp is V.
constexpr std::int64_t kHeadRowMultiple = 128;

// Tokens whose logits, `row_bytes` each, fit into `chunk_bytes` (0: what suits the device); on a GPU a power of two,
// since odd sizes make slower products, and with many tokens at least an eighth or so of them: each chunk adds to the
// whole weight gradient.
inline std::int64_t head_chunk_rows(std::int64_t tokens, std::int64_t row_bytes, bool cuda,
                                    std::int64_t chunk_bytes = 0) {
  const bool chosen = chunk_bytes != 0;
  if (!chosen) chunk_bytes = std::int64_t{cuda ? 1024 : 32} << 20;
  const auto rows = static_cast<std::uint64_t>(std::max<std::int64_t>(1, chunk_bytes / row_bytes));
  if (!cuda) return static_cast<std::int64_t>(rows);
  const auto share = static_cast<std::uint64_t>(chosen ? 0 : tokens / 6);
  return static_cast<std::int64_t>(std::max(std::bit_floor(rows), std::bit_floor(share)));
}

}  // namespace qat

// The part of a model that a rank has.
#pragma once

#include <cstdint>
#include <vector>

namespace qat {

// Blocks [first, last) of the model.
struct BlockRange {
  std::int64_t first = 0;
  std::int64_t last = 0;
  friend bool operator==(const BlockRange&, const BlockRange&) = default;
};

// A stage of a pipeline, or by default everything. Blocks are numbered in the whole model, as are all layers, whatever
// the cut: every name, random draw and width belongs to that number.
//
// A stage of an interleaved pipeline has several chunks, between which other stages have theirs. Embeddings go with
// the first chunk, last norm, output projection and loss with the last.
struct StageRange {
  std::vector<BlockRange> chunks{};  // NOLINT(readability-redundant-member-init); in order, empty: all blocks
  bool embeds = true;                // token and position embeddings: tokens enter
  bool heads = true;                 // last norm, output projection and loss
  bool outline = false;              // names and shapes only, without memory for values: Gpt2::whole() of a stage
};

}  // namespace qat

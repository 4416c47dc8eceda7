// Which rank keeps which part of the optimizer's state, and in which order the global norm is summed: pure functions of
// how the parameters lie.
#pragma once

#include <cstdint>
#include <vector>

#include "dist/grad/flat_layout.h"
#include "dist/grad/norm_block.h"

namespace qat {

struct OptimGroup {
  dist::FlatLayout layout;  // for this number of ranks, tensors at multiples of kNormBlock
};

// One parameter tensor: tensor `index` of its group's layout.
struct OptimTensor {
  int group = 0;
  int index = 0;
  bool decay = true;
  double learning_rate_factor = 1.0;  // beside its group's
  int chunk = 0;                      // of the stage
  bool leads = false;                 // in the norm before what earlier chunks have: a table of the first chunk's
  int width = 0;                      // the bits of the one width that has it for itself; 0: none has
};

// What one rank owns of a tensor: elements [first, first + elems) of it. A tensor lies in one bucket, of which a rank
// has one shard, so there is at most one such part.
struct OwnedPart {
  int tensor = 0;  // of OptimLayout::tensors
  std::int64_t first = 0, elems = 0;
  std::int64_t offset = 0;  // in what the rank owns, the shards of all groups' buckets one after the other
};

struct OptimLayout {
  std::vector<OptimGroup> groups;
  std::vector<OptimTensor> tensors;  // in the model's order, which is that of the norm
  int ranks = 1;
  int chunks = 1;  // of every stage

  const dist::FlatLayout::Tensor& place(const OptimTensor& tensor) const;
  std::int64_t own_elems() const;              // of every rank, gaps included; a multiple of kNormBlock
  std::int64_t group_offset(int group) const;  // where a group begins in what a rank owns
  // In order of `tensors`.
  std::vector<OwnedPart> parts_of(int rank) const;
  // Sums over the blocks of kNormBlock elements of what rank 0 owns of the groups that are `used`, then of what rank 1
  // owns, ...: where in that list those of the groups' tensors are, tensor by tensor and each from its beginning.
  std::vector<std::int32_t> norm_order(const std::vector<bool>& used) const;
};

}  // namespace qat

#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "dist/grad/flat_memory.h"
#include "dist/grid/process_grid.h"
#include "kernels/common/exec.h"
#include "src/optim/optim_layout.h"

namespace qat {

// The norm of a gradient whose shards lie on all ranks: squares are summed in double within each block of kNormBlock
// elements of a tensor (kernels/optim/adamw_flat.h), then block after block of each tensor, tensor after tensor in the
// layout's order. So it has the same bits however the tensors are put into groups, buckets and shards. The chunks of a
// pipeline's stages continue one sum, each where the one before it ends: theirs are the bits of a model in one piece.
class GlobalNorm {
 public:
  // memory: on the gradients' device, for the blocks' sums.
  GlobalNorm(const OptimLayout& layout, dist::FlatMemory& memory);

  // Collective, the same on every rank; waits for the device. grads: by group and bucket, this rank's shards, with
  // zeros between the tensors. A group without any takes no part, on no rank.
  double operator()(const dist::Grid& grid, const kernels::Exec& exec, std::span<const dist::BucketShards> grads);
  // Of the last call: the sum of squares of each of this stage's tensors, 0 where its group took no part.
  const std::vector<double>& tensor_squares() const { return tensor_squares_; }
  // Likewise, by OptimTensor::width: of all stages' tensors that only that width has, and at 0 of the others. Added up
  // in the norm's order: of all tensors it is the square of what the call returned, to the bit.
  const std::vector<double>& width_squares() const { return width_squares_; }

 private:
  // By tensor, the sums of its blocks, from all ranks of the stage; empty where its group takes no part.
  std::vector<std::vector<double>> blocks_of_tensors(dist::Communicator& data, const kernels::Exec& exec,
                                                     std::span<const dist::BucketShards> grads);

  OptimLayout layout_;
  std::map<std::vector<bool>, std::vector<std::int32_t>> orders_;  // by groups that take part
  std::vector<double> tensor_squares_;
  std::vector<double> width_squares_;
  std::shared_ptr<float> scratch_;  // a double for each block that this rank owns
};

}  // namespace qat

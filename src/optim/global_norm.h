#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_memory.h"
#include "kernels/common/exec.h"
#include "src/optim/optim_layout.h"

namespace qat {

// The norm of a gradient whose shards lie on all ranks: squares are summed in double within each block of kNormBlock
// elements of a tensor (kernels/optim/adamw_flat.h), then block after block of each tensor, tensor after tensor in the
// layout's order. So it has the same bits however the tensors are put into groups, buckets and shards.
class GlobalNorm {
 public:
  // memory: on the gradients' device, for the blocks' sums.
  GlobalNorm(const OptimLayout& layout, dist::FlatMemory& memory);

  // Collective, the same on every rank; waits for the device. grads: by group and bucket, this rank's shards, with
  // zeros between the tensors. A group without any takes no part, on no rank.
  double operator()(dist::Communicator& comm, const kernels::Exec& exec, std::span<const dist::BucketShards> grads);
  // Of the last call: the sum of squares of each of the layout's tensors, 0 where its group took no part.
  const std::vector<double>& tensor_squares() const { return tensor_squares_; }

 private:
  OptimLayout layout_;
  std::map<std::vector<bool>, std::vector<std::int32_t>> orders_;  // by groups that take part
  std::vector<double> tensor_squares_;
  std::shared_ptr<float> scratch_;  // a double for each block that this rank owns
};

}  // namespace qat

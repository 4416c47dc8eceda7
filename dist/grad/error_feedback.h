// What a group's encoded gradients did not carry yet, of this rank: one residual for each bucket that is encoded.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dist/grad/flat_layout.h"
#include "dist/grad/flat_memory.h"
#include "dist/grad/grad_reducer.h"

namespace qat::dist {

// Residuals change in commit() alone: a step that is skipped or given up leaves them as they were.
class ErrorFeedback {
 public:
  // Memory, zeroed, from the first use of a bucket on. layout outlives this.
  ErrorFeedback(const FlatLayout& layout, int rank, int ranks, std::shared_ptr<FlatMemory> memory);

  // Where a bucket's reduction takes it from and leaves it.
  Feedback of(int bucket);
  // After the bucket's reduction: what it left in `full` and in own_left is the residual from now on.
  void commit(int bucket, std::span<const float> full);

  // [the bucket's elements]: for checkpoints. `make`: zeros where there is none yet; otherwise empty.
  std::span<float> residual(int bucket, bool make = false);
  std::int64_t bytes() const;

 private:
  struct Bucket {
    std::shared_ptr<float> residual, own_left;
  };
  void make(int bucket);

  const FlatLayout* layout_;
  int rank_, ranks_;
  std::shared_ptr<FlatMemory> memory_;
  std::vector<Bucket> buckets_;
};

}  // namespace qat::dist

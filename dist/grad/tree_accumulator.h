// Adds up contributions one by one as the balanced tree of communicator.h, in memory for log2 of them.
//
// Like a binary counter: partial sums of 1, 2, 4, ... leaves, two equal ones are added as soon as they exist. A rank
// that adds its power-of-two number of micro-batches this way continues the same tree in its all-reduce, so the
// gradient of a global batch has the same bits on 1 rank x 8 micro-batches, 2 x 4, 4 x 2 and 8 x 1.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dist/grad/flat_memory.h"

namespace qat::dist {

class TreeAccumulator {
 public:
  // All buffers are `memory`'s. On a GPU the caller fills leaves on the stream that `memory` works on.
  explicit TreeAccumulator(std::int64_t elems, std::shared_ptr<FlatMemory> memory = host_flat_memory());

  // The buffer for the next leaf: [elems], zeroed unless the caller is going to overwrite all of it. Valid until
  // commit().
  std::span<float> next(bool zeroed = true);
  // What stands in that buffer is the leaf.
  void commit();
  // The sum of all leaves, zeros if there is none. Valid until reset(), which must come before another next(); until
  // then the caller may work in it (reduce it over the ranks in place).
  std::span<float> result();
  // Forgets the leaves and keeps the buffers.
  void reset();

  std::int64_t elems() const noexcept { return elems_; }
  std::int64_t leaves() const noexcept { return leaves_; }

 private:
  struct Partial {
    std::shared_ptr<float> sum;
    std::int64_t leaves = 0;
  };
  std::span<float> values(const Partial& partial) const {
    return {partial.sum.get(), static_cast<std::size_t>(elems_)};
  }
  void add_top();  // the two topmost partial sums become one

  std::int64_t elems_;
  std::shared_ptr<FlatMemory> memory_;
  std::int64_t leaves_ = 0;
  std::vector<Partial> partials_;  // the first `depth_` hold sums of ever fewer leaves; the rest are spare buffers
  std::size_t depth_ = 0;
  bool filling_ = false;   // between next() and commit(): partials_[depth_] is the leaf
  bool finished_ = false;  // after result()
};

}  // namespace qat::dist

// Adds up contributions one by one as the balanced tree of communicator.h, in memory for log2 of them.
//
// Like a binary counter: partial sums of 1, 2, 4, ... leaves, two equal ones are added as soon as they exist. A rank
// that adds its power-of-two number of micro-batches this way continues the same tree in its all-reduce, so the
// gradient of a global batch has the same bits on 1 rank x 8 micro-batches, 2 x 4, 4 x 2 and 8 x 1.
//
// Other numbers of leaves are counted in groups: so many consecutive leaves become one sum, as a balanced tree of their
// own, and the sums of the groups are what the counter counts. With the odd part of a rank's micro-batches as the
// group, a rank holds a power of two of groups. So 24 micro-batches are 8 groups of 3 however they are dealt:
//
//   1 rank:    ((G0+G1)+(G2+G3)) + ((G4+G5)+(G6+G7))      G0 = (b0+b1)+b2, G1 = (b3+b4)+b5, ...
//   2 ranks:   each one half of it; 4 ranks: two groups each; 8 ranks: one group each
#pragma once

#include <bit>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "dist/grad/flat_memory.h"

namespace qat::dist {

enum class SumOrder : std::uint8_t {
  kTree,     // as above
  kRunning,  // ((b0 + b1) + b2) + ...: one buffer, and a leaf's while it is filled; ranks do not continue a tree then
};

class TreeAccumulator {
 public:
  // All buffers are `memory`'s. On a GPU the caller fills leaves on the stream that `memory` works on. `group`: leaves
  // that become one sum first. A running sum gives each leaf's buffer back to `memory` (recycling_memory.h keeps it).
  explicit TreeAccumulator(std::int64_t elems, std::shared_ptr<FlatMemory> memory = host_flat_memory(),
                           std::int64_t group = 1, SumOrder order = SumOrder::kTree);

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
  // reset(), and gives the buffers back.
  void release();

  // How many buffers the tree of `leaves` leaves takes at its worst: one, and one for each doubling.
  static int buffers(std::int64_t leaves) noexcept { return std::bit_width(static_cast<std::uint64_t>(leaves)); }

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
  void add_equal();  // the topmost partial sums, as long as two have as many leaves
  void add_top();    // the two topmost partial sums become one

  std::int64_t elems_;
  std::shared_ptr<FlatMemory> memory_;
  std::int64_t group_;
  SumOrder order_;
  std::int64_t leaves_ = 0;
  std::vector<Partial> partials_;  // the first `depth_` hold sums of ever fewer leaves; the rest are spare buffers
  std::size_t depth_ = 0;
  bool filling_ = false;   // between next() and commit(): partials_[depth_] is the leaf
  bool finished_ = false;  // after result()
};

// The group for a rank that adds `leaves` of a global sum: their odd part, 3 for 24. The sum over all ranks then has
// the same bits for every two counts of ranks of which one is a power of two times the other.
std::int64_t odd_part(std::int64_t leaves);

}  // namespace qat::dist

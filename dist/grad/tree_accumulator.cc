#include "dist/grad/tree_accumulator.h"

#include <algorithm>

#include "kernels/common/error.h"

namespace qat::dist {

TreeAccumulator::TreeAccumulator(std::int64_t elems) : elems_(elems) {
  QAT_CHECK(elems >= 0, "a negative number of elements");
}

std::span<float> TreeAccumulator::next() {
  QAT_CHECK(!filling_, "next() before commit() of the previous leaf");
  QAT_CHECK(!finished_, "result() closes the tree: reset() before the next leaf");
  if (depth_ == partials_.size()) partials_.emplace_back();
  std::vector<float>& leaf = partials_[depth_].sum;
  leaf.assign(static_cast<std::size_t>(elems_), 0.0F);
  filling_ = true;
  return leaf;
}

void TreeAccumulator::commit() {
  QAT_CHECK(filling_, "commit() without next()");
  filling_ = false;
  partials_[depth_].leaves = 1;
  ++depth_;
  ++leaves_;
  while (depth_ >= 2 && partials_[depth_ - 1].leaves == partials_[depth_ - 2].leaves) add_top();
}

std::span<float> TreeAccumulator::result() {
  QAT_CHECK(!filling_, "result() before commit() of the last leaf");
  if (leaves_ == 0 && !finished_) {
    next();  // zeros
    filling_ = false;
  }
  finished_ = true;
  // The partial sums hold ever smaller powers of two; from the small end, this is the tree that splits off the largest
  // power of two first: 7 leaves are 4 + (2 + 1).
  while (depth_ >= 2) add_top();
  return partials_[0].sum;
}

void TreeAccumulator::reset() {
  depth_ = 0;
  leaves_ = 0;
  filling_ = false;
  finished_ = false;
}

void TreeAccumulator::add_top() {
  Partial& left = partials_[depth_ - 2];
  const Partial& right = partials_[depth_ - 1];
  float* const to = left.sum.data();
  const float* const from = right.sum.data();
  for (std::int64_t i = 0; i < elems_; ++i) to[i] += from[i];
  left.leaves += right.leaves;
  --depth_;
}

}  // namespace qat::dist

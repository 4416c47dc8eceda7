#include "dist/grad/tree_accumulator.h"

#include <bit>
#include <utility>

#include "kernels/common/error.h"

namespace qat::dist {

TreeAccumulator::TreeAccumulator(std::int64_t elems, std::shared_ptr<FlatMemory> memory, std::int64_t group,
                                 SumOrder order)
    : elems_(elems), memory_(std::move(memory)), group_(group), order_(order) {
  QAT_CHECK(elems >= 0, "a negative number of elements");
  QAT_CHECK(group >= 1, "a group has at least one leaf");
  QAT_CHECK(memory_ != nullptr, "an accumulator without memory");
}

std::span<float> TreeAccumulator::next(bool zeroed) {
  QAT_CHECK(!filling_, "next() before commit() of the previous leaf");
  QAT_CHECK(!finished_, "result() closes the tree: reset() before the next leaf");
  if (depth_ == partials_.size())
    partials_.push_back({.sum = memory_->allocate(elems_), .leaves = 0});
  else if (zeroed)
    memory_->zero(values(partials_[depth_]));
  filling_ = true;
  return values(partials_[depth_]);
}

void TreeAccumulator::commit() {
  QAT_CHECK(filling_, "commit() without next()");
  filling_ = false;
  partials_[depth_].leaves = 1;
  ++depth_;
  ++leaves_;
  if (order_ == SumOrder::kRunning) {
    if (depth_ < 2) return;
    add_top();
    partials_.pop_back();
    return;
  }
  add_equal();
  if (leaves_ % group_ != 0) return;
  // The group is full: its partial sums, ever smaller powers of two, become one from the small end.
  while (partials_[depth_ - 1].leaves < group_) add_top();
  add_equal();
}

std::span<float> TreeAccumulator::result() {
  QAT_CHECK(!filling_, "result() before commit() of the last leaf");
  if (leaves_ == 0 && !finished_) {
    next();  // zeros
    filling_ = false;
  }
  finished_ = true;
  // The partial sums hold ever smaller powers of two of groups; from the small end, this is the tree that splits off
  // the largest power of two first: 7 groups are 4 + (2 + 1).
  while (depth_ >= 2) add_top();
  return values(partials_[0]);
}

void TreeAccumulator::reset() {
  depth_ = 0;
  leaves_ = 0;
  filling_ = false;
  finished_ = false;
}

void TreeAccumulator::release() {
  reset();
  partials_.clear();
}

void TreeAccumulator::add_equal() {
  while (depth_ >= 2 && partials_[depth_ - 1].leaves == partials_[depth_ - 2].leaves) add_top();
}

void TreeAccumulator::add_top() {
  Partial& left = partials_[depth_ - 2];
  const Partial& right = partials_[depth_ - 1];
  memory_->add(values(left), values(right));
  left.leaves += right.leaves;
  --depth_;
}

std::int64_t odd_part(std::int64_t leaves) {
  QAT_CHECK(leaves >= 1, "only a positive number has an odd part");
  return leaves >> std::countr_zero(static_cast<std::uint64_t>(leaves));
}

}  // namespace qat::dist

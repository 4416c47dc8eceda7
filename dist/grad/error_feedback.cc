#include "dist/grad/error_feedback.h"

#include <utility>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace

ErrorFeedback::ErrorFeedback(const FlatLayout& layout, int rank, int ranks, std::shared_ptr<FlatMemory> memory)
    : layout_(&layout), rank_(rank), ranks_(ranks), memory_(std::move(memory)), buckets_(layout.buckets().size()) {}

void ErrorFeedback::make(int bucket) {
  Bucket& one = buckets_.at(to_size(bucket));
  if (one.residual != nullptr) return;
  one.residual = memory_->allocate(layout_->buckets()[to_size(bucket)].range.size());
  one.own_left = memory_->allocate(layout_->shard(bucket, rank_, ranks_).size());
}

Feedback ErrorFeedback::of(int bucket) {
  make(bucket);
  return {
      .residual = residual(bucket),
      .own_left = {buckets_[to_size(bucket)].own_left.get(), to_size(layout_->shard(bucket, rank_, ranks_).size())}};
}

std::span<float> ErrorFeedback::residual(int bucket, bool make_it) {
  if (make_it) make(bucket);
  const Bucket& one = buckets_.at(to_size(bucket));
  if (one.residual == nullptr) return {};
  return {one.residual.get(), to_size(layout_->buckets()[to_size(bucket)].range.size())};
}

void ErrorFeedback::commit(int bucket, std::span<const float> full) {
  const std::span<float> to = residual(bucket);
  QAT_CHECK(!to.empty() && to.size() == full.size(), "a residual of a bucket that was not reduced");
  const std::int64_t begin = layout_->buckets()[to_size(bucket)].range.begin;
  const ShardRange own = layout_->shard(bucket, rank_, ranks_);
  const std::size_t first = to_size(own.begin - begin), elems = to_size(own.size()), after = first + elems;
  memory_->copy(to.first(first), full.first(first));
  memory_->copy(to.subspan(first, elems), of(bucket).own_left);
  memory_->copy(to.subspan(after), full.subspan(after));
}

std::int64_t ErrorFeedback::bytes() const {
  std::int64_t elems = 0;
  for (std::size_t b = 0; b < buckets_.size(); ++b) {
    if (buckets_[b].residual == nullptr) continue;
    elems += layout_->buckets()[b].range.size() + layout_->shard(static_cast<int>(b), rank_, ranks_).size();
  }
  return elems * static_cast<std::int64_t>(sizeof(float));
}

}  // namespace qat::dist

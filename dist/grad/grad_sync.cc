#include "dist/grad/grad_sync.h"

#include <string>

#include "kernels/common/error.h"

namespace qat::dist {

GradSync::GradSync(Communicator& comm, const FlatLayout& layout, const std::shared_ptr<FlatMemory>& memory,
                   const GradSyncOptions& options)
    : layout_(&layout) {
  buckets_.reserve(layout.buckets().size());
  for (const FlatLayout::Bucket& bucket : layout.buckets()) {
    const std::int64_t elems = bucket.range.size();
    buckets_.push_back({.range = bucket.range,
                        .reducer = GradReducer(comm, elems, options.device, options.stream),
                        .sum = TreeAccumulator(elems, memory, options.group, options.order),
                        .leaf = {}});
  }
}

void GradSync::start(std::int64_t passes) {
  QAT_CHECK(passes >= 0, "a negative number of passes");
  passes_ = passes;
  resting_ = false;
  passes_done_ = 0;
  own_.clear();
  for (Bucket& bucket : buckets_) {
    bucket.sum.reset();
    bucket.leaf = {};
    bucket.committed = false;
  }
}

void GradSync::rest() {
  start(0);
  resting_ = true;
  for (Bucket& bucket : buckets_) bucket.sum.release();
}

std::span<float> GradSync::leaf(int bucket) {
  Bucket& one = at(bucket);
  QAT_CHECK(!one.committed, "bucket " + std::to_string(bucket) + " has its gradients of this pass already");
  QAT_CHECK(passes_done_ < passes_, "a step of " + std::to_string(passes_) + " passes has one more");
  if (one.leaf.empty()) one.leaf = one.sum.next(/*zeroed=*/false);
  return one.leaf;
}

void GradSync::commit(int bucket) {
  Bucket& one = at(bucket);
  QAT_CHECK(!one.leaf.empty(), "bucket " + std::to_string(bucket) + " is committed without a leaf");
  one.sum.commit();
  one.leaf = {};
  one.committed = true;
  if (one.sum.leaves() == passes_) (void)one.sum.result();  // this rank's sum is complete: the rest of its tree
}

void GradSync::end_pass() {
  for (std::size_t i = 0; i < buckets_.size(); ++i)
    QAT_CHECK(buckets_[i].committed, "a pass ends without the gradients of bucket " + std::to_string(i));
  for (Bucket& bucket : buckets_) bucket.committed = false;
  ++passes_done_;
}

const BucketShards& GradSync::finish() {
  own_.clear();
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    Bucket& bucket = buckets_[i];
    QAT_CHECK(bucket.sum.leaves() == passes_ && bucket.leaf.empty(),
              "bucket " + std::to_string(i) + " is exchanged with " + std::to_string(bucket.sum.leaves()) + " of " +
                  std::to_string(passes_) + " leaves");
    const std::span<float> sum = bucket.sum.result();
    bucket.reducer.reduce_scatter(sum);
    const ShardRange shard = bucket.reducer.shard();
    own_.emplace_back(sum.subspan(static_cast<std::size_t>(shard.begin), static_cast<std::size_t>(shard.size())));
  }
  return own_;
}

std::vector<std::span<float>> GradSync::own_sums() {
  QAT_CHECK(own_.size() == buckets_.size(), "sums are there once they are exchanged");
  std::vector<std::span<float>> sums;
  for (Bucket& bucket : buckets_) {
    const ShardRange shard = bucket.reducer.shard();
    sums.push_back(
        bucket.sum.result().subspan(static_cast<std::size_t>(shard.begin), static_cast<std::size_t>(shard.size())));
  }
  return sums;
}

void GradSync::gather(std::span<float> values) {
  QAT_CHECK(static_cast<std::int64_t>(values.size()) == layout_->elems(), "values lie as the layout says");
  for (Bucket& bucket : buckets_)
    bucket.reducer.all_gather(
        values.subspan(static_cast<std::size_t>(bucket.range.begin), static_cast<std::size_t>(bucket.range.size())));
}

}  // namespace qat::dist

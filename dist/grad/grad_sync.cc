#include "dist/grad/grad_sync.h"

#include <string>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"

namespace qat::dist {

GradSync::GradSync(Communicator& comm, const FlatLayout& layout, const std::shared_ptr<FlatMemory>& memory,
                   const GradSyncOptions& options)
    : layout_(&layout), memory_(memory), exec_(options.reducer.exec), feedback_(options.feedback) {
  buckets_.reserve(layout.buckets().size());
  for (const FlatLayout::Bucket& bucket : layout.buckets()) {
    const std::int64_t elems = bucket.range.size();
    GradReducerOptions reducer = options.reducer;
    if (bucket.exact) reducer.wire = GradWire{};
    buckets_.push_back({.range = bucket.range,
                        .reducer = GradReducer(comm, elems, reducer),
                        .sum = TreeAccumulator(elems, memory, options.group, options.order),
                        .leaf = {},
                        .encoded = !reducer.wire.is_exact()});
  }
}

void GradSync::start(std::int64_t passes, kernels::RngKey key) {
  QAT_CHECK(passes >= 0, "a negative number of passes");
  passes_ = passes;
  key_ = key;
  resting_ = false;
  passes_done_ = 0;
  own_.clear();
  for (Bucket& bucket : buckets_) {
    bucket.sum.reset();
    bucket.leaf = {};
    bucket.committed = bucket.reduced = false;
  }
}

void GradSync::give_up() {
  passes_ = passes_done_ = 0;
  for (Bucket& bucket : buckets_) {
    bucket.leaf = {};
    if (!bucket.reduced) bucket.sum.reset();
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
  if (one.sum.leaves() != passes_) return;
  (void)one.sum.result();  // this rank's sum is complete: the rest of its tree
  if (on_complete_) on_complete_(bucket);
}

void GradSync::end_pass() {
  for (std::size_t i = 0; i < buckets_.size(); ++i)
    QAT_CHECK(buckets_[i].committed, "a pass ends without the gradients of bucket " + std::to_string(i));
  for (Bucket& bucket : buckets_) bucket.committed = false;
  ++passes_done_;
}

bool GradSync::is_complete(int bucket) const {
  const Bucket& one = buckets_.at(static_cast<std::size_t>(bucket));
  return one.sum.leaves() == passes_ && one.leaf.empty();
}

std::span<float> GradSync::shard_of(Bucket& bucket) {
  const ShardRange shard = bucket.reducer.shard();
  return bucket.sum.result().subspan(static_cast<std::size_t>(shard.begin), static_cast<std::size_t>(shard.size()));
}

void GradSync::reduce(int bucket, WireError* error) {
  Bucket& one = at(bucket);
  QAT_CHECK(!one.reduced, "bucket " + std::to_string(bucket) + " is exchanged already");
  QAT_CHECK(is_complete(bucket), "bucket " + std::to_string(bucket) + " is exchanged with " +
                                     std::to_string(one.sum.leaves()) + " of " + std::to_string(passes_) + " leaves");
  one.reduced = true;
  const std::span<float> sum = one.sum.result();
  std::shared_ptr<float> exact;
  const std::span<float> copy = [&]() -> std::span<float> {
    if (error == nullptr || !one.encoded) return {};
    exact = memory_->allocate(one.range.size());
    return {exact.get(), sum.size()};
  }();
  const Feedback feedback = keeps_feedback(one) ? feedback_->of(bucket) : Feedback{};
  if (!copy.empty()) {
    memory_->copy(copy, sum);
    if (!feedback.residual.empty()) memory_->add(copy, feedback.residual);
    memory_->wait();  // its stream need not be the exchange's
  }
  one.reducer.reduce_scatter(sum, feedback, {.key = key_, .first = static_cast<std::uint64_t>(one.range.begin)});
  if (copy.empty()) return;
  one.reducer.reduce_scatter_exact(copy);
  const ShardRange shard = one.reducer.shard();
  measure(bucket, copy.subspan(static_cast<std::size_t>(shard.begin), static_cast<std::size_t>(shard.size())), *error);
}

void GradSync::measure(int bucket, std::span<const float> exact, WireError& error) {
  const std::span<const float> coded = shard_of(at(bucket));
  std::vector<float> on_host[2];
  std::span<const float> values[2] = {exact, coded};
  if (exec_.device == Device::kCuda) {
    for (int i = 0; i < 2; ++i) {
      on_host[i].resize(values[i].size());
      cuda_copy_to_host(on_host[i].data(), values[i].data(), values[i].size_bytes(), exec_.stream);
      values[i] = on_host[i];
    }
  }
  for (std::size_t i = 0; i < exact.size(); ++i) {
    const double value = values[0][i], difference = value - static_cast<double>(values[1][i]);
    error.squares += value * value;
    error.error_squares += difference * difference;
  }
}

const BucketShards& GradSync::finish() {
  own_.clear();
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if (!buckets_[i].reduced) reduce(static_cast<int>(i));
    own_.emplace_back(shard_of(buckets_[i]));
  }
  return own_;
}

void GradSync::commit_feedback() {
  QAT_CHECK(own_.size() == buckets_.size(), "what is left is known once sums are exchanged");
  for (std::size_t i = 0; i < buckets_.size(); ++i)
    if (keeps_feedback(buckets_[i])) feedback_->commit(static_cast<int>(i), buckets_[i].sum.result());
}

std::vector<std::span<float>> GradSync::own_sums() {
  QAT_CHECK(own_.size() == buckets_.size(), "sums are there once they are exchanged");
  std::vector<std::span<float>> sums;
  for (Bucket& bucket : buckets_) sums.push_back(shard_of(bucket));
  return sums;
}

std::int64_t GradSync::sent_bytes() const {
  std::int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += bucket.reducer.sent_bytes();
  return bytes;
}

std::int64_t GradSync::fp32_bytes() const {
  std::int64_t bytes = 0;
  for (const Bucket& bucket : buckets_) bytes += bucket.reducer.fp32_bytes();
  return bytes;
}

}  // namespace qat::dist

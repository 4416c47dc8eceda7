#include "src/optim/sharded_adamw.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"
#include "kernels/optim/adamw_segments.h"

namespace qat {

double global_norm(dist::Communicator& comm, const kernels::Exec& exec, std::span<const float> shard,
                   std::span<double> scratch) {
  QAT_CHECK(shard.size() % kNormBlock == 0, "shards are cut at multiples of kNormBlock");
  const std::size_t blocks = shard.size() / kNormBlock;
  std::vector<double> mine(blocks);
  if (exec.device == Device::kCuda) {
    QAT_CHECK(scratch.size() == blocks, "a GPU's partial sums need its memory");
    kernels::block_sum_squares(exec, shard, kNormBlock, scratch);
    cuda_copy_to_host(mine.data(), scratch.data(), scratch.size_bytes(), exec.stream);
  } else {
    kernels::block_sum_squares(exec, shard, kNormBlock, mine);
  }
  std::vector<double> all(blocks * static_cast<std::size_t>(comm.size()));
  comm.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  double sum = 0.0;
  for (const double partial : all) sum += partial;
  return std::sqrt(sum);
}

ShardedAdamW::ShardedAdamW(std::vector<OptimSegment> segments, dist::ShardRange shard, const OptimConfig& config,
                           dist::FlatMemory& memory)
    : segments_(std::move(segments)),
      shard_(shard),
      config_(config),
      exp_avg_(memory.allocate(shard.size())),
      exp_avg_sq_(memory.allocate(shard.size())),
      norm_scratch_(
          memory.allocate(shard.size() / kNormBlock * static_cast<std::int64_t>(sizeof(double) / sizeof(float)))),
      refused_(memory.allocate(1)),
      steps_(segments_.size()) {}

void ShardedAdamW::step(const kernels::Exec& exec, std::span<float> params, std::span<const float> grads,
                        const std::vector<bool>& produced, double learning_rate, double gradient_scale) {
  QAT_CHECK(produced.size() == segments_.size(), "one flag per segment");
  // The kernel sees this rank's shard: offsets count from its beginning.
  std::vector<kernels::AdamWSegment> mine;
  for (std::size_t i = 0; i < segments_.size(); ++i) {
    if (!produced[i]) continue;
    const OptimSegment& segment = segments_[i];
    ++steps_[i];  // on every rank, whoever owns the elements
    const std::int64_t begin = std::max(segment.offset, shard_.begin);
    const std::int64_t end = std::min(segment.offset + segment.elems, shard_.end);
    if (begin >= end) continue;
    mine.push_back({.offset = begin - shard_.begin,
                    .elems = end - begin,
                    .step = {.learning_rate = learning_rate,
                             .beta1 = config_.beta1,
                             .beta2 = config_.beta2,
                             .eps = config_.eps,
                             .weight_decay = segment.decay ? config_.weight_decay : 0.0,
                             .gradient_scale = gradient_scale,
                             .step = steps_[i]}});
  }
  const auto at = static_cast<std::size_t>(shard_.begin), count = static_cast<std::size_t>(shard_.size());
  kernels::adamw_segments(exec, params.subspan(at, count), grads.subspan(at, count), exp_avg(), exp_avg_sq(), mine,
                          reinterpret_cast<std::int32_t*>(refused_.get()));
}

bool ShardedAdamW::take_refused(const kernels::Exec& exec) {
  const std::span<float> flag(refused_.get(), 1);
  std::int32_t refused = 0;
  if (exec.device == Device::kCuda)
    cuda_copy_to_host(&refused, flag.data(), flag.size_bytes(), exec.stream);
  else
    std::memcpy(&refused, flag.data(), flag.size_bytes());
  if (refused == 0) return false;
  if (exec.device == Device::kCuda)
    cuda_zero(flag.data(), flag.size_bytes(), exec.stream);
  else
    flag[0] = 0.0F;
  return true;
}

}  // namespace qat

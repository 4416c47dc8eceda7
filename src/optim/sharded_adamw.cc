#include "src/optim/sharded_adamw.h"

#include <cstring>
#include <utility>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"
#include "kernels/optim/adamw_segments.h"

namespace qat {

ShardedAdamW::ShardedAdamW(OptimLayout layout, int rank, const OptimConfig& config, dist::FlatMemory& memory)
    : layout_(std::move(layout)),
      rank_(rank),
      config_(config),
      parts_(layout_.parts_of(rank)),
      exp_avg_(memory.allocate(layout_.own_elems())),
      exp_avg_sq_(memory.allocate(layout_.own_elems())),
      refused_(memory.allocate(1)),
      steps_(layout_.tensors.size()) {}

void ShardedAdamW::step(const kernels::Exec& exec, std::span<const ShardValues> params,
                        std::span<const dist::BucketShards> grads, const std::vector<bool>& produced,
                        std::span<const float> learning_rates, std::span<const double> gradient_scales,
                        const std::function<void(std::size_t group)>& updated) {
  QAT_CHECK(produced.size() == layout_.tensors.size(), "one flag per tensor");
  QAT_CHECK(params.size() == layout_.groups.size() && grads.size() == layout_.groups.size() &&
                learning_rates.size() == layout_.groups.size() && gradient_scales.size() == layout_.groups.size(),
            "values, gradients, learning rates and scales of every group");
  for (std::size_t i = 0; i < produced.size(); ++i)
    if (produced[i]) ++steps_[i];  // on every rank, whoever owns the elements
  // By group and bucket; offsets count from the shard's beginning.
  std::vector<std::vector<std::vector<kernels::AdamWSegment>>> segments;
  for (const OptimGroup& group : layout_.groups) segments.emplace_back(group.layout.buckets().size());
  for (const OwnedPart& part : parts_) {
    const auto i = static_cast<std::size_t>(part.tensor);
    if (!produced[i]) continue;
    const OptimTensor& tensor = layout_.tensors[i];
    QAT_CHECK(!grads[static_cast<std::size_t>(tensor.group)].empty(), "a tensor has a gradient that its group lacks");
    const OptimGroup& group = layout_.groups[static_cast<std::size_t>(tensor.group)];
    const dist::FlatLayout::Tensor& where = layout_.place(tensor);
    const dist::ShardRange shard = group.layout.shard(where.bucket, rank_, layout_.ranks);
    segments[static_cast<std::size_t>(tensor.group)][static_cast<std::size_t>(where.bucket)].push_back(
        {.offset = where.offset + part.first - shard.begin,
         .elems = part.elems,
         .step = {.learning_rate = learning_rates[static_cast<std::size_t>(tensor.group)] * tensor.learning_rate_factor,
                  .beta1 = config_.beta1,
                  .beta2 = config_.beta2,
                  .eps = config_.eps,
                  .weight_decay = tensor.decay ? config_.weight_decay : 0.0,
                  .gradient_scale = gradient_scales[static_cast<std::size_t>(tensor.group)],
                  .step = steps_[i]}});
  }
  std::size_t done = 0;  // of what this rank owns
  for (std::size_t g = 0; g < segments.size(); ++g) {
    if (grads[g].empty()) {
      done += static_cast<std::size_t>(layout_.groups[g].layout.own_elems(layout_.ranks));
      continue;
    }
    QAT_CHECK(grads[g].size() == segments[g].size() && params[g].size() == segments[g].size(),
              "a shard of values and gradient of every bucket");
    for (std::size_t b = 0; b < segments[g].size(); ++b) {
      const std::size_t count = params[g][b].size();
      kernels::adamw_segments(exec, params[g][b], grads[g][b], exp_avg().subspan(done, count),
                              exp_avg_sq().subspan(done, count), segments[g][b],
                              reinterpret_cast<std::int32_t*>(refused_.get()));
      done += count;
    }
    if (updated) updated(g);
  }
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

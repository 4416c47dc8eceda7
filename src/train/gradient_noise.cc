#include "src/train/gradient_noise.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "kernels/common/bit_width.h"
#include "kernels/optim/add_noise.h"
#include "src/base/rng.h"

namespace qat {
namespace {

// In units of the gradient as it lies in memory, before the optimizer scales it.
double deviation_of(const GradientNoise& noise, std::size_t tensor, std::size_t group, std::int64_t elems) {
  if (noise.config.noise_scale == NoiseScale::kAbsolute) return noise.config.noise / noise.scales[group];
  return noise.config.noise * std::sqrt(noise.squares[tensor] / static_cast<double>(elems));
}

std::vector<bool> groups_with_noise(const GradientNoise& noise) {
  int narrowest = BitWidth::kFull;
  for (const dist::PassPlan& pass : noise.plan.updates.at(noise.update).passes) {
    if (!pass.trains) continue;
    const dist::PlannedWidths& map = noise.plan.maps.at(pass.map);
    narrowest = std::min(narrowest, static_cast<int>(map.weight_bits));
    for (const std::int32_t bits : map.block_bits) narrowest = std::min(narrowest, static_cast<int>(bits));
  }
  std::vector<bool> noisy;
  for (const FlatGroup& group : noise.store.groups()) {
    const int bits = group.key.kind == GroupKind::kWidth ? group.key.bits : narrowest;
    noisy.push_back(noise.config.noise > 0.0 && bits <= noise.config.noise_max_bits);
  }
  return noisy;
}

// By tensor of the optimizer: FNV-1a of its name.
std::vector<std::uint64_t> slots_of(const ParameterStore& store) {
  std::vector<std::uint64_t> slots;
  for (const ParameterInfo& info : store.infos())
    if (info.trainable) slots.push_back(name_slot(info.name));
  return slots;
}

}  // namespace

void add_gradient_noise(const kernels::Exec& exec, const GradientNoise& noise,
                        const std::vector<ShardValues>& gradient) {
  const OptimLayout& layout = noise.optimizer.layout();
  const std::vector<bool> noisy = groups_with_noise(noise);
  const std::vector<std::uint64_t> slots = slots_of(noise.store);
  for (const OwnedPart& part : noise.optimizer.parts()) {
    const auto i = static_cast<std::size_t>(part.tensor);
    const OptimTensor& tensor = layout.tensors[i];
    const auto g = static_cast<std::size_t>(tensor.group);
    if (!noise.produced[i] || !noisy[g] || gradient[g].empty()) continue;
    const dist::FlatLayout::Tensor& where = layout.place(tensor);
    const dist::ShardRange shard = layout.groups[g].layout.shard(where.bucket, noise.rank, layout.ranks);
    const kernels::RngKey key = rng_key(noise.seed, RngPurpose::kGradientNoise, noise.plan.step,
                                        pass_of(/*micro_batch=*/0, noise.update), slots[i]);
    const std::span<float> own = gradient[g][static_cast<std::size_t>(where.bucket)].subspan(
        static_cast<std::size_t>(where.offset + part.first - shard.begin), static_cast<std::size_t>(part.elems));
    kernels::add_noise(exec, own, static_cast<std::uint64_t>(part.first), deviation_of(noise, i, g, where.elems), key);
  }
}

}  // namespace qat

#include "src/train/gradient_noise.h"

#include <algorithm>
#include <cmath>

#include "kernels/common/bit_width.h"
#include "kernels/optim/add_noise.h"
#include "src/base/rng.h"

namespace qat {
namespace {

// In units of the gradient as it lies in memory, before the optimizer scales it.
double deviation_of(const GradientNoise& noise, std::size_t tensor) {
  if (noise.config.noise_scale == NoiseScale::kAbsolute) return noise.config.noise / noise.scale;
  const auto elems = static_cast<double>(noise.layout.place(noise.layout.tensors[tensor]).elems);
  return noise.config.noise * std::sqrt(noise.squares[tensor] / elems);
}

}  // namespace

std::vector<bool> groups_with_noise(const OptimConfig& config, const dist::StepPlan& plan,
                                    const dist::UpdatePlan& update, const std::vector<FlatGroup>& groups) {
  int narrowest = BitWidth::kFull;
  for (const dist::PassPlan& pass : update.passes)
    if (pass.trains) narrowest = std::min(narrowest, static_cast<int>(plan.maps.at(pass.map).weight_bits));
  std::vector<bool> noisy;
  for (const FlatGroup& group : groups) {
    const int bits = group.key.kind == GroupKind::kWidth ? group.key.bits : narrowest;
    noisy.push_back(config.noise > 0.0 && bits <= config.noise_max_bits);
  }
  return noisy;
}

void add_gradient_noise(const kernels::Exec& exec, const GradientNoise& noise,
                        const std::vector<ShardValues>& gradient) {
  for (const OwnedPart& part : noise.parts) {
    const auto i = static_cast<std::size_t>(part.tensor);
    const OptimTensor& tensor = noise.layout.tensors[i];
    const auto g = static_cast<std::size_t>(tensor.group);
    if (!noise.produced[i] || !noise.groups[g] || gradient[g].empty()) continue;
    const dist::FlatLayout::Tensor& where = noise.layout.place(tensor);
    const dist::ShardRange shard = noise.layout.groups[g].layout.shard(where.bucket, noise.rank, noise.layout.ranks);
    const kernels::RngKey key = rng_key(noise.seed, RngPurpose::kGradientNoise, noise.step,
                                        pass_of(/*micro_batch=*/0, noise.update), name_slot(noise.name(part.tensor)));
    kernels::add_noise(
        exec,
        gradient[g][static_cast<std::size_t>(where.bucket)].subspan(
            static_cast<std::size_t>(where.offset + part.first - shard.begin), static_cast<std::size_t>(part.elems)),
        static_cast<std::uint64_t>(part.first), deviation_of(noise, i), key);
  }
}

}  // namespace qat

#include "src/model/layer_norm.h"

#include <ATen/ATen.h>

#include "kernels/common/error.h"
#include "src/quant/precision_map.h"

namespace qat {
namespace {

constexpr double kNormEps = 1e-5;

}  // namespace

LayerNorm::LayerNorm(const std::string& name, std::int64_t features, Slots slots, const QuantConfig& quant,
                     ParameterStore& store)
    : store_(&store), features_(features), shared_(slots == Slots::kShared) {
  const auto group = [&](int bits) {
    return shared_ ? GroupKey(GroupKind::kShared) : GroupKey(GroupKind::kWidth, bits);
  };
  add(name, BitWidth::kFull, group(BitWidth::kFull));
  if (shared_) return;
  for (const int bits : quantized_weight_widths(quant)) add(name + "." + width_slot(bits), bits, group(bits));
}

void LayerNorm::add(const std::string& name, int weight_bits, GroupKey group) {
  Slot& slot = slots_[weight_bits];
  slot.weight = store_->add(name + ".weight", {features_}, group, /*trainable=*/true, /*decay=*/false);
  slot.bias = store_->add(name + ".bias", {features_}, group, /*trainable=*/true, /*decay=*/false);
}

FusedNorm LayerNorm::fused(int weight_bits) const {
  const auto slot = slots_.find(shared_ ? BitWidth::kFull : weight_bits);
  QAT_CHECK(slot != slots_.end(), "no layer norm for weights of " + std::to_string(weight_bits) + " bits");
  return {.weight = store_->tensor(slot->second.weight), .bias = store_->tensor(slot->second.bias)};
}

at::Tensor LayerNorm::forward(const ResidualPair& x, int weight_bits) const {
  const FusedNorm norm = fused(weight_bits);
  if (x.residual.is_cuda()) return fused_norm(x, norm);
  return at::layer_norm(sum_of(x), {features_}, norm.weight, norm.bias, kNormEps);
}

}  // namespace qat

#include "src/model/layer_norm.h"

#include <ATen/ATen.h>

namespace qat {
namespace {

constexpr double kNormEps = 1e-5;

}  // namespace

LayerNorm::LayerNorm(const std::string& name, std::int64_t width, ParameterStore& store)
    : store_(&store),
      weight_(store.add(name + ".weight", {width}, ParameterGroup::kShared, /*trainable=*/true, /*decay=*/false)),
      bias_(store.add(name + ".bias", {width}, ParameterGroup::kShared, /*trainable=*/true, /*decay=*/false)) {}

at::Tensor LayerNorm::forward(const ResidualPair& x) const {
  if (x.residual.is_cuda()) return fused_norm(x, fused());
  return at::layer_norm(sum_of(x), {x.residual.size(-1)}, store_->tensor(weight_), store_->tensor(bias_), kNormEps);
}

}  // namespace qat

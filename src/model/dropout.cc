#include "src/model/dropout.h"

#include <torch/torch.h>

#include "kernels/activation/dropout.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

class CounterDropout : public torch::autograd::Function<CounterDropout> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, double p, kernels::RngKey key) {
    ctx->saved_data["p"] = p;
    ctx->saved_data["seed"] = static_cast<std::int64_t>(key.seed);
    ctx->saved_data["stream"] = static_cast<std::int64_t>(key.stream);
    return dropped(x, p, key);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const kernels::RngKey key{.seed = static_cast<std::uint64_t>(ctx->saved_data["seed"].toInt()),
                              .stream = static_cast<std::uint64_t>(ctx->saved_data["stream"].toInt())};
    return {dropped(grads[0], ctx->saved_data["p"].toDouble(), key), {}, {}};
  }
};

}  // namespace

at::Tensor counter_dropout(const at::Tensor& x, double p, kernels::RngKey key) {
  return CounterDropout::apply(x, p, key);
}

at::Tensor dropped(const at::Tensor& x, double p, kernels::RngKey key) {
  const at::Tensor dense = x.contiguous();
  at::Tensor y = at::empty_like(dense);
  kernels::dropout(exec_for(dense), const_float_matrix(dense), static_cast<float>(p), key, float_matrix(y));
  return y;
}

}  // namespace qat

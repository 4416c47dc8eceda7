#include "src/quant/gradient_rule.h"

#include <torch/torch.h>

#include "src/quant/kept_for_backward.h"

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

class QuantizedByRule : public torch::autograd::Function<QuantizedByRule> {
 public:
  static Variable forward(AutogradContext* ctx, const Variable& x, at::TensorList /*trained*/, const RuleOf& rule) {
    ctx->save_for_backward({x});
    keep(ctx, rule);
    return x.detach();
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const at::Tensor x = ctx->get_saved_variables()[0];
    const auto rule = take<RuleOf>(ctx);
    QuantGradients found = rule.quantizer->backward(grads[0].contiguous(), x.detach().contiguous(), rule.width,
                                                    rule.range ? &*rule.range : nullptr, rule.sharing);
    tensor_list out = {found.x};
    const std::vector<TrainedMember> members =
        rule.quantizer->method(rule.width).trained_members(x.size(0), x.size(-1));
    for (std::size_t i = 0; i < found.trained.size(); ++i) out.push_back(found.trained[i].view(members[i].shape));
    out.emplace_back();
    return out;
  }
};

}  // namespace

at::Tensor quantized_by_rule(const at::Tensor& x, const std::vector<at::Tensor>& trained, const RuleOf& rule) {
  return QuantizedByRule::apply(x, at::TensorList(trained), rule);
}

}  // namespace qat

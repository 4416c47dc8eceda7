#include "src/quant/straight_through.h"

#include <torch/torch.h>

namespace qat {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

class StraightThrough : public torch::autograd::Function<StraightThrough> {
 public:
  static Variable forward(AutogradContext* /*ctx*/, const Variable& /*x*/, const Variable& quantized) {
    return quantized.alias();
  }
  static tensor_list backward(AutogradContext* /*ctx*/, tensor_list grads) { return {grads[0], {}}; }
};

}  // namespace

at::Tensor straight_through(const at::Tensor& x, const at::Tensor& quantized) {
  return StraightThrough::apply(x, quantized);
}

}  // namespace qat

// A quantized linear layer in one pass, and its product for autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "src/quant/gradient_sink.h"
#include "src/quant/prepared_linear.h"

namespace qat {

// A parameter as a pass uses it: itself for autograd, and its number for the sink; undefined: there is none.
struct PassParameter {
  at::Tensor tensor;
  int id = -1;
};

struct LinearPass {
  std::shared_ptr<const PreparedLinear> prepared;
  LinearRounding rounding;
  BitWidth activation = BitWidth::full();
  PassParameter weight, bias, lora_a, lora_b;  // the last two only if the adapter is on
  bool weight_has_other_uses = false;          // its gradient then goes to autograd, which adds them up
  GradientSink* sink = nullptr;                // where backward leaves gradients of parameters; null: with autograd

  // Those that there are, in the order above: an autograd function's inputs.
  std::vector<at::Tensor> parameters() const;
};

// Backward of the layer at the places that the sink gives.
LinearGradients linear_backward(const LinearPass& pass, const LinearSaved& saved, OutputGradient gradient,
                                const LinearNeeds& needs);
// Appends the gradients of pass.parameters().
void append_gradients(const LinearPass& pass, const LinearGradients& gradients, std::vector<at::Tensor>& out);

// y: [..., N] of x: [..., K], contiguous, whose operand form `input` is: [M, K]. Gradients reach x and the parameters.
// raw: where those of an adapter go that reads the raw input; undefined: to x.
at::Tensor quantized_linear(const at::Tensor& x, const LinearOperand& input, const LinearPass& pass,
                            const at::Tensor& raw = {});

}  // namespace qat

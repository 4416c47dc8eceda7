#include "src/quant/wide_codes.h"

#include <ATen/ATen.h>

namespace qat {
namespace {

// a b^T of fp16 integers with fp32 sums.
at::Tensor product(const at::Tensor& a, const at::Tensor& b) {
  if (a.is_cuda()) return at::mm(a, b.t(), at::kFloat);
  return at::mm(a.to(at::kFloat), b.to(at::kFloat).t());
}

}  // namespace

at::Tensor wide_code_matmul(const WideCoded& x, const WideCoded& w, const at::Tensor& bias, at::ScalarType dtype) {
  at::Tensor y = product(x.codes, w.codes).mul_(x.scales.unsqueeze(1)).mul_(w.scales);
  if (bias.defined()) y.add_(bias);
  return y.to(dtype);
}

at::Tensor decode(const WideCoded& coded, at::ScalarType dtype) {
  return (coded.codes.to(at::kFloat) * coded.scales.unsqueeze(1)).to(dtype);
}

}  // namespace qat

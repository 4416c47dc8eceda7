#include "src/train/product_peak.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>

#include "kernels/common/cuda_device.h"
#include "kernels/gemm/code_matmul.h"
#include "src/quant/tensor_memory.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

constexpr int kRepeats = 5, kProductsARepeat = 4;

double rate(const ComputeMode& mode, const ProductShape& shape) {
  const at::TensorOptions bytes = at::TensorOptions().dtype(at::kChar).device(mode.device);
  const auto codes_of = [&](std::int64_t rows) {
    // No random draw: that would move the run's. Neighbours differ, as codes do.
    const at::Tensor numbers = at::arange(rows * shape.k, bytes.dtype(at::kInt)).mul_(37).remainder_(255).sub_(127);
    return numbers.to(at::kChar).view({rows, shape.k});
  };
  const at::Tensor a = codes_of(shape.m), b = codes_of(shape.n);
  const at::Tensor rows = at::full({shape.m}, 0.01, bytes.dtype(at::kFloat)),
                   cols = at::full({shape.n}, 0.01, bytes.dtype(at::kFloat));
  const at::Tensor y = at::empty({shape.m, shape.n}, bytes.dtype(mode.dtype));
  const kernels::Exec exec = exec_for(y);
  const auto multiply = [&] {
    kernels::code_matmul(exec, const_codes(a), const_codes(b),
                         {.row_scales = const_span(rows), .col_scales = const_span(cols), .bias = {}}, float_matrix(y));
  };
  const auto wait = [&] {
    if (mode.is_cuda()) cuda_synchronize(exec.stream);
  };
  multiply();
  wait();
  double best = 0.0;
  for (int repeat = 0; repeat < kRepeats; ++repeat) {
    const auto start = std::chrono::steady_clock::now();
    for (int product = 0; product < kProductsARepeat; ++product) multiply();
    wait();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    const double operations = 2.0 * static_cast<double>(shape.m) * static_cast<double>(shape.n) *
                              static_cast<double>(shape.k) * kProductsARepeat;
    best = std::max(best, operations / seconds);
  }
  return best;
}

}  // namespace

double measured_product_peak(const ComputeMode& mode, const ProductShape& shape) {
  const at::NoGradGuard no_grad;
  const double best = rate(mode, shape);
  release_cached_memory(mode.device);
  return best;
}

}  // namespace qat

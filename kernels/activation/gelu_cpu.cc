#include "kernels/activation/gelu_cpu.h"

#include <cmath>

#include "kernels/common/scratch.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrain = 4096;  // elements; tanh is slow
constexpr float kRoot2OverPi = 0.7978845608F;
constexpr float kCubic = 0.044715F;

float gelu_of(float x) {
  const float u = kRoot2OverPi * (x + kCubic * x * x * x);
  return 0.5F * x * (1.0F + std::tanh(u));
}

// With t = tanh(u): 0.5 (1 + t) + 0.5 x (1 - t^2) u'. Beyond |x| = 9 it is 0 or 1 in fp32, and x^3 might overflow.
float gelu_slope(float x) {
  x = x > 9.0F ? 9.0F : (x < -9.0F ? -9.0F : x);
  const float t = std::tanh(kRoot2OverPi * (x + kCubic * x * x * x));
  return 0.5F * (1.0F + t) + 0.5F * x * (1.0F - t * t) * kRoot2OverPi * (1.0F + 3.0F * kCubic * x * x);
}

void apply_gelu(const Exec& exec, Matrix<const float> x, float* y) {
  exec.for_ranges(x.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) y[i] = gelu_of(x.data[i]);
  });
}

}  // namespace

void gelu_cpu(const Exec& exec, ConstFloatMatrix x, FloatMatrix y) {
  apply_gelu(exec, require_fp32(x), require_fp32(y).data);
}

void gelu_encode_cpu(const Exec& exec, ConstFloatMatrix x, const EncodeOptions& options, const CodesOut& out,
                     std::span<float> scales, FloatMatrix values) {
  const Scratch<float> unwanted(values.empty() ? x.size() : 0);
  float* y = values.empty() ? unwanted.get() : require_fp32(values).data;
  apply_gelu(exec, require_fp32(x), y);
  encode_rows(exec, Matrix<const float>{y, x.rows, x.cols}, options, out, scales);
}

void gelu_backward_cpu(const Exec& exec, ConstFloatMatrix dy, ConstFloatMatrix x, FloatMatrix dx) {
  const float* from = require_fp32(x).data;
  const float* gradient = require_fp32(dy).data;
  float* to = require_fp32(dx).data;
  exec.for_ranges(x.size(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) to[i] = gradient[i] * gelu_slope(from[i]);
  });
}

}  // namespace qat::kernels

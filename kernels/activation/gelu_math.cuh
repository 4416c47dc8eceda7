// GELU of one value. With 0.5 (1 + tanh(u)) = 1 / (1 + exp(-2u)):
//   gelu(x) = x S,  gelu'(x) = S (1 + x (1 - S) 2u'),   S = 1 / (1 + exp(-2u)),  u = sqrt(2/pi) (x + 0.044715 x^3)
// Nothing is subtracted from its like, so small results keep their digits. exp and the quotient are the fast ones (2
// ulp each): 2e-6 relative for |x| <= 5.
#pragma once

#include <cuda_runtime.h>

namespace qat::kernels {

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// For denominators of 1 and more this is the factor of __fdividef, which guards against smaller ones.
__device__ __forceinline__ float reciprocal_fast(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

constexpr float kMinusTwoRootLog2 = -2.30220819814F;  // -2 sqrt(2/pi) log2(e)
constexpr float kMinusTwoRootLog2Cubic = -2.30220819814F * 0.044715F;
constexpr float kTwoRoot = 1.59576912161F;  // 2 sqrt(2/pi)
constexpr float kTwoRootCubic = 1.59576912161F * 3.0F * 0.044715F;

__device__ __forceinline__ float gelu_value(float x) {
  const float power = x * __fmaf_rn(kMinusTwoRootLog2Cubic, x * x, kMinusTwoRootLog2);
  return x * reciprocal_fast(1.0F + exp2_fast(power));
}

__device__ __forceinline__ float gelu_slope(float x) {
  // Beyond, the slope is 0 or 1 in fp32; within, exp(-2u) < 2^96 is finite. Written so that NaN stays.
  x = x > 9.0F ? 9.0F : (x < -9.0F ? -9.0F : x);
  const float square = x * x;
  const float e = exp2_fast(x * __fmaf_rn(kMinusTwoRootLog2Cubic, square, kMinusTwoRootLog2));
  const float s = reciprocal_fast(1.0F + e);
  const float slope = __fmaf_rn(kTwoRootCubic, square, kTwoRoot);  // 2u'
  return __fmaf_rn(s * (x * slope), e * s, s);
}

}  // namespace qat::kernels

// The slope of GELU as the gradient's passes multiply it in.
#pragma once

#include <cuda_runtime.h>

namespace qat::kernels {

// gelu'(x) with s = 1/2 (1 + tanh(u)) = 1 / (1 + e), e = exp(-2 u), and 1 - s = e s, which do not cancel:
//   gelu'(x) = s + x (2 u') s (1 - s),  u = sqrt(2/pi) (x + 0.044715 x^3)
// exp and the reciprocal are the fast ones, 2 ulp each.
__device__ __forceinline__ float slope_of_gelu(float x) {
  constexpr float kTwoRoot = 1.59576912161F, kCubic = 0.044715F, kLog2E = 1.44269504089F;
  const float square = x * x;
  float e = x * __fmaf_rn(-kTwoRoot * kLog2E * kCubic, square, -kTwoRoot * kLog2E);
  float s;
  e = fminf(e, 115.0F);  // finite, or 1 - s would be infinity times zero
  asm("ex2.approx.ftz.f32 %0, %0;" : "+f"(e));
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(s) : "f"(1.0F + e));
  const float slope = __fmaf_rn(3.0F * kTwoRoot * kCubic, square, kTwoRoot);
  // Where s is 0 or 1 to the last bit the second term is nothing; x^2 may have overflowed there. A NaN fails the test.
  return fabsf(x) > 20.0F ? s : __fmaf_rn(x * slope, e * s * s, s);
}

}  // namespace qat::kernels

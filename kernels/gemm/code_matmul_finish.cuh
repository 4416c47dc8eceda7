// What becomes of a finished sum, for the CUDA paths that do it outside of CUTLASS.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/gemm/code_matmul_cuda.h"

namespace qat::kernels {

// code_matmul.h's formula with the call's pointers as kernels need them.
struct FinishArgs {
  const float* row_scales;
  const float* col_scales;
  const float* bias;  // may be null
  void* y;
  std::int64_t rows;
  std::int64_t cols;
  std::int64_t stride;
  bool per_row;
  bool per_col;
  bool accumulate;
};

inline FinishArgs finish_args(const CudaMatmul& call) {
  const CodeMatmulEpilogue& e = call.epilogue;
  return {e.row_scales.data(),
          e.col_scales.data(),
          e.bias.empty() ? nullptr : e.bias.data(),
          call.y.data,
          call.y.rows,
          call.y.cols,
          call.y.stride,
          e.row_scales.size() > 1,
          e.col_scales.size() > 1,
          e.accumulate};
}

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ inline void store_rounded(float* to, float x) { *to = x; }
__device__ inline void store_rounded(__nv_bfloat16* to, float x) { *to = __float2bfloat16_rn(x); }

// Explicit roundings: no compiler option may contract them.
template <typename Out>
__device__ void finish_sum(const FinishArgs& args, std::int64_t row, std::int64_t col, std::int32_t sum) {
  Out* to = static_cast<Out*>(args.y) + row * args.stride + col;
  const float scale = __fmul_rn(args.row_scales[args.per_row ? row : 0], args.col_scales[args.per_col ? col : 0]);
  float value = __fmul_rn(scale, __int2float_rn(sum));
  if (args.bias != nullptr) value = __fadd_rn(value, args.bias[col]);
  if (args.accumulate) value = __fadd_rn(to_float(*to), value);
  store_rounded(to, value);
}
template <>
__device__ inline void finish_sum<std::int32_t>(const FinishArgs& args, std::int64_t row, std::int64_t col,
                                                std::int32_t sum) {
  static_cast<std::int32_t*>(args.y)[row * args.stride + col] = sum;
}

// Calls run(Out{}) with the element type of `dtype`.
template <typename Run>
void with_out_type(DType dtype, const Run& run) {
  if (dtype == DType::kInt32) return run(std::int32_t{});
  if (dtype == DType::kBFloat16) return run(__nv_bfloat16{});
  run(float{});
}

}  // namespace qat::kernels

// torch tensors as kernel views, and how a kernel call on a tensor runs.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"

namespace qat {

// The device of `t`, the stream that LibTorch works on there now for the calling thread, and LibTorch's CPU threads.
kernels::Exec exec_for(const at::Tensor& t);

// A contiguous tensor [..., cols] as [rows, cols]; a 1-d tensor is one row. The tensor must outlive the view.
Matrix<const float> const_matrix(const at::Tensor& t);
Matrix<float> matrix(const at::Tensor& t);
// The same in the tensor's own dtype, fp32 or bf16. Rows may have gaps (the last dimension is contiguous, and the
// others are one stride apart); an undefined tensor gives an empty view.
ConstFloatMatrix const_float_matrix(const at::Tensor& t);
FloatMatrix float_matrix(const at::Tensor& t);
Matrix<const std::int8_t> const_codes(const at::Tensor& t);
Matrix<std::int8_t> codes(const at::Tensor& t);  // an undefined tensor gives an empty view

// All elements of a contiguous fp32 tensor; an undefined tensor gives an empty span.
std::span<const float> const_span(const at::Tensor& t);
std::span<float> span_of(const at::Tensor& t);

}  // namespace qat

// The CUDA half of encode.h, codes and scales bit for bit those of encode_cpu.h. Shapes are checked by encode.cc; every
// matrix and span is device memory.
#pragma once

#include <span>

#include "kernels/quant/encode.h"

namespace qat::kernels {

struct EncodeCudaJob {
  ConstFloatMatrix x;  // dense, fp32 or bf16
  Factors factors;
  EncodeOptions options;
  CodesOut out;
};

void encode_rows_cuda(const Exec& exec, const EncodeCudaJob& job, std::span<float> scales);
void encode_cols_cuda(const Exec& exec, const EncodeCudaJob& job, std::span<float> scales);
void encode_with_scales_cuda(const Exec& exec, const EncodeCudaJob& job, std::span<const float> scales);
void decode_rows_cuda(const Exec& exec, Matrix<const std::int8_t> codes, std::span<const float> scales, FloatMatrix x);

}  // namespace qat::kernels

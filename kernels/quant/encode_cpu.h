// The CPU half of encode.h: the specification that other devices are tested against. Shapes are checked by encode.cc.
#pragma once

#include <span>

#include "kernels/common/cpu_isa.h"
#include "kernels/quant/encode.h"

namespace qat::kernels {

struct EncodeJob {
  Matrix<const float> x;
  Factors factors;
  EncodeOptions options;
  CodesOut out;
};

void encode_rows_cpu(const Exec& exec, const EncodeJob& job, std::span<float> scales, CpuIsa isa);
void encode_cols_cpu(const Exec& exec, const EncodeJob& job, std::span<float> scales, CpuIsa isa);
void encode_with_scales_cpu(const Exec& exec, const EncodeJob& job, std::span<const float> scales, CpuIsa isa);
void decode_rows_cpu(const Exec& exec, Matrix<const std::int8_t> codes, std::span<const float> scales, Matrix<float> x,
                     CpuIsa isa);

}  // namespace qat::kernels

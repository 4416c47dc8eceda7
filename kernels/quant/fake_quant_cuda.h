// The CUDA half of fake_quant.h. Shapes are checked by fake_quant.cc; every matrix and span is device memory.
#pragma once

#include <span>

#include "kernels/quant/fake_quant_cpu.h"

namespace qat::kernels {

void fake_quant_uniform_cuda(const Exec& exec, Matrix<const float> x, Axis axis, const UniformGrid& grid,
                             Matrix<float> y);
void fake_quant_log_cuda(const Exec& exec, Matrix<const float> x, Axis axis, const LogGrid& grid, Matrix<float> y);
void symmetric_scales_cuda(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                           float floor, std::span<float> scales);
void affine_scales_cuda(const Exec& exec, std::span<const float> lo, std::span<const float> hi, BitWidth width,
                        std::span<float> scales, std::span<float> zero_points);

}  // namespace qat::kernels

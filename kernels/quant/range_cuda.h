// The CUDA half of range.h. Shapes are checked by range.cc; every matrix and span is device memory.
#pragma once

#include <span>

#include "kernels/quant/range_cpu.h"

namespace qat::kernels {

void min_max_cuda(const Exec& exec, Matrix<const float> x, Axis axis, std::span<float> mins, std::span<float> maxs);
void log_range_cuda(const Exec& exec, Matrix<const float> x, Axis axis, LogRule rule, std::span<float> log_mins,
                    std::span<float> log_maxs);
void log_mean_cuda(const Exec& exec, Matrix<const float> x, Axis axis, float eps, std::span<float> means);

}  // namespace qat::kernels

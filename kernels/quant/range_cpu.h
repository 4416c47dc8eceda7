// The CPU half of range.h. Shapes are checked by range.cc.
#pragma once

#include <span>

#include "kernels/common/cpu_isa.h"
#include "kernels/quant/range.h"

namespace qat::kernels {

struct LogRule {
  float eps;
  bool masked;
};

void min_max_cpu(const Exec& exec, Matrix<const float> x, Axis axis, std::span<float> mins, std::span<float> maxs,
                 CpuIsa isa);
void log_range_cpu(const Exec& exec, Matrix<const float> x, Axis axis, LogRule rule, std::span<float> log_mins,
                   std::span<float> log_maxs, CpuIsa isa);
void log_mean_cpu(const Exec& exec, Matrix<const float> x, Axis axis, float eps, std::span<float> means);

}  // namespace qat::kernels

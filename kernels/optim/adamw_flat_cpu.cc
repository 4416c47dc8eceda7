#include "kernels/optim/adamw_flat_cpu.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 16384;

// The step's constants, rounded to fp32 once.
struct Constants {
  float gradient_scale, beta1, one_minus_beta1, beta2, one_minus_beta2;
  float unbias1, unbias2;  // 1 / (1 - beta^t)
  float eps, learning_rate, weight_decay;
};

Constants constants_of(const AdamWStep& step) {
  // In double: 1 - 0.999^1 in fp32 would lose four of its digits.
  const double beta1 = step.beta1, beta2 = step.beta2, t = static_cast<double>(step.step);
  return {step.gradient_scale,
          step.beta1,
          static_cast<float>(1.0 - beta1),
          step.beta2,
          static_cast<float>(1.0 - beta2),
          static_cast<float>(1.0 / (1.0 - std::pow(beta1, t))),
          static_cast<float>(1.0 / (1.0 - std::pow(beta2, t))),
          step.eps,
          step.learning_rate,
          step.weight_decay};
}

// The order of adamw_flat.h, every operation rounded to fp32.
QAT_ALWAYS_INLINE void adamw_body(std::int64_t n, const Constants& k, float* p_out, const float* g_in, float* m_out,
                                  float* v_out) {
  float* __restrict p = p_out;
  const float* __restrict g = g_in;
  float* __restrict m = m_out;
  float* __restrict v = v_out;
  const Constants c = k;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = g[i] * c.gradient_scale;
    const float m_new = c.beta1 * m[i] + c.one_minus_beta1 * gradient;
    const float v_new = c.beta2 * v[i] + c.one_minus_beta2 * (gradient * gradient);
    const float direction = (m_new * c.unbias1) / (std::sqrt(v_new * c.unbias2) + c.eps);
    m[i] = m_new;
    v[i] = v_new;
    p[i] = p[i] - c.learning_rate * (direction + c.weight_decay * p[i]);
  }
}

double sum_squares(const float* x, std::int64_t n) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

// Each block keeps its own order; four whole blocks at once hide the latency of the additions.
void sum_squares_of_four(const float* x, std::int64_t block, double* out) {
  std::array<double, 4> sum{};
  for (std::int64_t i = 0; i < block; ++i)
    for (std::size_t b = 0; b < 4; ++b) {
      const double value = x[static_cast<std::int64_t>(b) * block + i];
      sum[b] += value * value;
    }
  std::copy(sum.begin(), sum.end(), out);
}

}  // namespace

void adamw_flat_cpu(const Exec& exec, const AdamWState& state, const AdamWStep& step, CpuIsa isa) {
  const Constants constants = constants_of(step);
  const auto body = IsaClones<adamw_body>::pick(isa);
  exec.for_ranges(static_cast<std::int64_t>(state.p.size()), kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    body(end - begin, constants, state.p.data() + begin, state.g.data() + begin, state.m.data() + begin,
         state.v.data() + begin);
  });
}

void block_sum_squares_cpu(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial) {
  const std::int64_t n = static_cast<std::int64_t>(x.size());
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainElems / block);
  exec.for_ranges(static_cast<std::int64_t>(partial.size()), grain, [&](std::int64_t begin, std::int64_t end) {
    std::int64_t i = begin;
    for (; i + 4 <= end && (i + 4) * block <= n; i += 4)
      sum_squares_of_four(x.data() + i * block, block, partial.data() + i);
    for (; i < end; ++i)
      partial[static_cast<std::size_t>(i)] = sum_squares(x.data() + i * block, std::min(block, n - i * block));
  });
}

}  // namespace qat::kernels

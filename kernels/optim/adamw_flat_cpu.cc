#include "kernels/optim/adamw_flat_cpu.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cmath>

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 16384;

// By bits, so that the loop below has neither a branch nor a masked store.
QAT_ALWAYS_INLINE float pick(std::uint32_t mask, float if_set, float if_not) {
  return std::bit_cast<float>((std::bit_cast<std::uint32_t>(if_set) & mask) |
                              (std::bit_cast<std::uint32_t>(if_not) & ~mask));
}

// The order of adamw_flat.h, every operation rounded to fp32. Whether an element kept its old values.
QAT_ALWAYS_INLINE bool adamw_body(std::int64_t n, const AdamWConstants& k, float* p_out, const float* g_in,
                                  float* m_out, float* v_out) {
  float* __restrict p = p_out;
  const float* __restrict g = g_in;
  float* __restrict m = m_out;
  float* __restrict v = v_out;
  const AdamWConstants c = k;
  std::uint32_t refused = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const float gradient = g[i] * c.gradient_scale;
    const float m_new = c.beta1 * m[i] + c.one_minus_beta1 * gradient;
    const float v_new = c.beta2 * v[i] + c.one_minus_beta2 * (gradient * gradient);
    const float direction = (m_new * c.unbias1) / (std::sqrt(v_new * c.unbias2) + c.eps);
    const float p_new = p[i] - c.learning_rate * (direction + c.weight_decay * p[i]);
    const std::uint32_t good = is_good(p_new, v_new) ? ~0U : 0U;
    m[i] = pick(good, m_new, m[i]);
    v[i] = pick(good, v_new, v[i]);
    p[i] = pick(good, p_new, p[i]);
    refused |= ~good;
  }
  return refused != 0;
}

constexpr std::int64_t kSums = 128;  // of one block, side by side
constexpr std::int64_t kLanes = 16;  // sums that fit into vector registers at once

// The order of adamw_flat.h.
double sum_squares(const float* x, std::int64_t n) {
  std::array<double, kSums> sums{};
  const std::int64_t rows = n / kSums;
  for (std::int64_t first = 0; first < kSums; first += kLanes) {
    std::array<double, kLanes> lanes{};
    for (std::int64_t row = 0; row < rows; ++row) {
      const float* const at = x + row * kSums + first;
      for (std::size_t l = 0; l < lanes.size(); ++l) {
        const double value = at[l];
        lanes[l] += value * value;
      }
    }
    std::copy(lanes.begin(), lanes.end(), sums.begin() + first);
  }
  for (std::int64_t i = rows * kSums; i < n; ++i) {
    const double value = x[i];
    sums[static_cast<std::size_t>(i % kSums)] += value * value;
  }
  for (std::size_t width = kSums / 2; width >= 1; width /= 2)
    for (std::size_t k = 0; k < width; ++k) sums[k] = sums[2 * k] + sums[2 * k + 1];
  return sums[0];
}

}  // namespace

void adamw_flat_cpu(const Exec& exec, const AdamWState& state, const AdamWStep& step, CpuIsa isa) {
  const AdamWConstants constants = constants_of(step);
  const auto body = IsaClones<adamw_body>::pick(isa);
  exec.for_ranges(static_cast<std::int64_t>(state.p.size()), kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    const bool refused = body(end - begin, constants, state.p.data() + begin, state.g.data() + begin,
                              state.m.data() + begin, state.v.data() + begin);
    // Ranges run on several threads.
    if (refused && state.refused != nullptr) std::atomic_ref(*state.refused).store(1, std::memory_order_relaxed);
  });
}

void adamw_segments_cpu(const Exec& exec, const AdamWState& state, std::span<const AdamWSegment> segments, CpuIsa isa) {
  for (const AdamWSegment& segment : segments) {
    const auto at = static_cast<std::size_t>(segment.offset), count = static_cast<std::size_t>(segment.elems);
    adamw_flat_cpu(exec,
                   {state.p.subspan(at, count), state.g.subspan(at, count), state.m.subspan(at, count),
                    state.v.subspan(at, count), state.refused},
                   segment.step, isa);
  }
}

void block_sum_squares_cpu(const Exec& exec, std::span<const float> x, std::int64_t block, std::span<double> partial) {
  const auto n = static_cast<std::int64_t>(x.size());
  const std::int64_t grain = std::max<std::int64_t>(1, kGrainElems / block);
  exec.for_ranges(static_cast<std::int64_t>(partial.size()), grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      partial[static_cast<std::size_t>(i)] = sum_squares(x.data() + i * block, std::min(block, n - i * block));
  });
}

}  // namespace qat::kernels

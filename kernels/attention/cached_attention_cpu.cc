#include "kernels/attention/cached_attention_cpu.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/common/error.h"
#include "kernels/common/scratch.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kParts = 16;  // partial sums of a dot product, which the compiler keeps in vectors

template <typename T>
float dot(const float* a, const T* b, std::int64_t n) {
  std::array<float, kParts> parts{};
  std::int64_t i = 0;
  for (; i + kParts <= n; i += kParts)
    for (std::int64_t j = 0; j < kParts; ++j)
      parts[static_cast<std::size_t>(j)] += a[i + j] * static_cast<float>(b[i + j]);
  for (; i < n; ++i) parts[static_cast<std::size_t>(i % kParts)] += a[i] * static_cast<float>(b[i]);
  float sum = 0.0F;
  for (const float part : parts) sum += part;
  return sum;
}

// One head of one sequence. token: its first one's key in this head; value: as much behind it; scores: room for
// `length`.
template <typename T>
void attend(const float* q, const T* token, std::int64_t length, std::int64_t width, std::int64_t head_width,
            const float* scales, float* scores, float* y) {
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_width)));
  float largest = -INFINITY;
  for (std::int64_t t = 0; t < length; ++t) {
    const float key_scale = scales != nullptr ? scales[2 * t] : 1.0F;
    scores[t] = dot(q, token + t * 2 * width, head_width) * key_scale * scale;
    largest = std::max(largest, scores[t]);
  }
  float sum = 0.0F;
  for (std::int64_t t = 0; t < length; ++t) sum += scores[t] = std::exp(scores[t] - largest);
  std::fill_n(y, head_width, 0.0F);
  for (std::int64_t t = 0; t < length; ++t) {
    const float weight = scores[t] / sum * (scales != nullptr ? scales[2 * t + 1] : 1.0F);
    const T* value = token + t * 2 * width + width;
    for (std::int64_t i = 0; i < head_width; ++i) y[i] += weight * static_cast<float>(value[i]);
  }
}

template <typename T>
void attend_all(const Exec& exec, const ConstFloatMatrix& q, const KeptTokens& kept, std::int64_t heads,
                const FloatMatrix& y) {
  const std::int64_t width = q.cols, head_width = width / heads;
  const auto* queries = static_cast<const float*>(q.data);
  const auto* tokens = static_cast<const T*>(kept.data);
  exec.for_ranges(q.rows * heads, /*grain=*/1, [&](std::int64_t begin, std::int64_t end) {
    const Scratch<float> scores(kept.capacity);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::int64_t row = i / heads, first = i % heads * head_width;
      const float* scales = kept.scales.empty() ? nullptr : kept.scales.data() + 2 * row * kept.capacity;
      attend(queries + row * q.stride + first, tokens + row * kept.capacity * 2 * width + first,
             kept.lengths[static_cast<std::size_t>(row)], width, head_width, scales, scores.get(),
             static_cast<float*>(y.data) + row * width + first);
    }
  });
}

}  // namespace

void cached_attention_cpu(const Exec& exec, ConstFloatMatrix q, const KeptTokens& kept, std::int64_t heads,
                          FloatMatrix y) {
  QAT_CHECK(q.dtype == DType::kFloat32, "CPUs compute in fp32");
  for (const std::int64_t length : kept.lengths)
    QAT_CHECK(length >= 1 && length <= kept.capacity, "a sequence has at least one token, and no more than its room");
  if (kept.dtype == DType::kInt8)
    attend_all<std::int8_t>(exec, q, kept, heads, y);
  else
    attend_all<float>(exec, q, kept, heads, y);
}

}  // namespace qat::kernels

#include "kernels/sampling/choose_tokens_cpu.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "kernels/common/error.h"
#include "kernels/sampling/sampling_weight.h"

namespace qat::kernels {
namespace {

// The k-th largest; the smallest if there are fewer.
float kth_largest(std::span<const float> logits, std::int64_t k) {
  std::vector<float> sorted(logits.begin(), logits.end());
  const auto kth = sorted.begin() + static_cast<std::ptrdiff_t>(std::min<std::int64_t>(k, std::ssize(sorted)) - 1);
  std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
  return *kth;
}

std::uint64_t sum_of(std::span<const std::uint64_t> weights) {
  return std::accumulate(weights.begin(), weights.end(), std::uint64_t{0});
}

// Makes 0 of those that the fewest likely ones with the share p of all do without.
void keep_nucleus(std::vector<std::uint64_t>& weights, double p) {
  const std::uint64_t needed = share_of(share_bits(p), sum_of(weights)).up();
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < weights.size(); ++i)
    if (weights[i] > 0) order.push_back(i);
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return weights[a] != weights[b] ? weights[a] > weights[b] : a < b; });
  std::uint64_t sum = 0;
  for (const std::size_t i : order) {
    if (sum >= needed)
      weights[i] = 0;
    else
      sum += weights[i];
  }
}

std::int64_t choice(std::span<const float> logits, const SamplingOptions& options, std::int64_t draw) {
  if (options.is_greedy()) return std::max_element(logits.begin(), logits.end()) - logits.begin();
  return drawn_token(sampling_weights(logits, options), static_cast<std::uint64_t>(draw));
}

}  // namespace

std::vector<std::uint64_t> sampling_weights(std::span<const float> logits, const SamplingOptions& options) {
  QAT_CHECK(options.temperature > 0.0 && !logits.empty(), "sampling is at a temperature, from some logits");
  const double largest = *std::max_element(logits.begin(), logits.end());
  const float least = options.top_k > 0 ? kth_largest(logits, options.top_k) : -INFINITY;
  std::vector<std::uint64_t> weights;
  weights.reserve(logits.size());
  for (const float z : logits)
    weights.push_back(z < least ? 0 : sampling_weight((static_cast<double>(z) - largest) / options.temperature));
  if (options.top_p < 1.0) keep_nucleus(weights, options.top_p);
  return weights;
}

std::int64_t drawn_token(std::span<const std::uint64_t> weights, std::uint64_t draw) {
  const std::uint64_t target = share_of(draw, sum_of(weights)).whole;
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    sum += weights[i];
    if (sum > target) return static_cast<std::int64_t>(i);
  }
  throw Error(ErrorKind::kInternal, "a draw from weights that are all 0");
}

void choose_tokens_cpu(const Exec& exec, const ConstFloatMatrix& logits, const SamplingOptions& options,
                       Matrix<std::uint8_t> seen, std::span<const std::int64_t> draws, std::span<std::int64_t> tokens,
                       std::span<std::int64_t> finite) {
  const auto penalty = static_cast<float>(options.repetition_penalty);
  exec.for_ranges(logits.rows, /*grain=*/1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<float> row(static_cast<std::size_t>(logits.cols));
    for (std::int64_t b = begin; b < end; ++b) {
      const float* from = static_cast<const float*>(logits.data) + b * logits.stride;
      std::uint8_t* marks = options.has_penalty() ? seen.row(b) : nullptr;
      bool all_finite = true;
      for (std::size_t i = 0; i < row.size(); ++i) {
        row[i] = compared_logit(from[i], marks != nullptr && marks[i] != 0, penalty);
        all_finite = all_finite && std::isfinite(from[i]);
      }
      const auto at = static_cast<std::size_t>(b);
      finite[at] = all_finite ? 1 : 0;
      tokens[at] = all_finite ? choice(row, options, options.is_greedy() ? 0 : draws[at]) : 0;
      if (marks != nullptr) marks[tokens[at]] = 1;
    }
  });
}

}  // namespace qat::kernels

#include "src/generate/sampling.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "kernels/common/error.h"
#include "src/base/rng.h"

namespace qat {
namespace {

// The k-th largest; the smallest if there are fewer.
float kth_largest(std::span<const float> logits, std::int64_t k) {
  std::vector<float> sorted(logits.begin(), logits.end());
  const auto kth = sorted.begin() + static_cast<std::ptrdiff_t>(std::min<std::int64_t>(k, std::ssize(sorted)) - 1);
  std::nth_element(sorted.begin(), kth, sorted.end(), std::greater<>());
  return *kth;
}

// Drops those that the fewest likely ones with the probability `mass` do without. The probabilities' sum is `total`.
void keep_nucleus(std::vector<Candidate>& all, double mass, double total) {
  const auto likelier = [](const Candidate& a, const Candidate& b) {
    return a.probability != b.probability ? a.probability > b.probability : a.token < b.token;
  };
  std::sort(all.begin(), all.end(), likelier);
  double sum = 0.0;
  std::size_t kept = 0;
  while (kept < all.size() && sum < mass * total) sum += all[kept++].probability;
  all.resize(kept);
  std::sort(all.begin(), all.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
}

}  // namespace

void penalize_repetition(std::span<float> logits, std::span<const int> seen, double penalty) {
  if (penalty == 1.0) return;
  std::vector<int> tokens(seen.begin(), seen.end());
  std::sort(tokens.begin(), tokens.end());
  tokens.erase(std::unique(tokens.begin(), tokens.end()), tokens.end());
  const auto r = static_cast<float>(penalty);
  for (const int token : tokens) {
    if (token < 0 || std::cmp_greater_equal(token, logits.size())) continue;
    float& z = logits[static_cast<std::size_t>(token)];
    z = z > 0.0F ? z / r : z * r;
  }
}

int greedy_choice(std::span<const float> logits) {
  return static_cast<int>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<Candidate> candidates(std::span<const float> logits, const SamplingOptions& options) {
  QAT_CHECK(options.temperature > 0.0 && !logits.empty(), "sampling is at a temperature, from some logits");
  const float largest = *std::max_element(logits.begin(), logits.end());
  const float least = options.top_k > 0 ? kth_largest(logits, options.top_k) : -INFINITY;
  std::vector<Candidate> all;
  double total = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] < least) continue;
    const double weight = std::exp((static_cast<double>(logits[i]) - largest) / options.temperature);
    all.push_back({static_cast<int>(i), weight});
    total += weight;
  }
  if (options.top_p < 1.0) {
    keep_nucleus(all, options.top_p, total);
    total = 0.0;
    for (const Candidate& one : all) total += one.probability;
  }
  for (Candidate& one : all) one.probability /= total;
  return all;
}

int sampled_choice(std::span<const Candidate> candidates, double u) {
  QAT_CHECK(!candidates.empty(), "a choice is among some candidates");
  double sum = 0.0;
  for (const Candidate& one : candidates) {
    sum += one.probability;
    if (u < sum) return one.token;
  }
  // Rounding left the sum below u: the last one that can come at all.
  const auto possible =
      std::find_if(candidates.rbegin(), candidates.rend(), [](const Candidate& one) { return one.probability > 0.0; });
  return possible->token;
}

double sampling_draw(std::uint64_t seed, std::uint64_t prompt, std::uint64_t position) {
  const kernels::Philox4 block =
      kernels::philox(rng_key(seed, RngPurpose::kGeneration, position, prompt), /*counter=*/0);
  const std::uint64_t bits = (static_cast<std::uint64_t>(block.v[0]) << 32U) | block.v[1];
  return static_cast<double>(bits >> 11U) * 0x1p-53;
}

}  // namespace qat

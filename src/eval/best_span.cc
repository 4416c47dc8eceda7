#include "src/eval/best_span.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace qat {
namespace {

// The places of the largest logits, ascending.
std::vector<std::int64_t> likeliest(std::span<const float> logits, std::int64_t begin, std::int64_t end,
                                    std::int64_t count) {
  const auto at = [&](std::int64_t place) { return logits[static_cast<std::size_t>(place)]; };
  std::vector<std::int64_t> places(static_cast<std::size_t>(std::max<std::int64_t>(0, end - begin)));
  std::iota(places.begin(), places.end(), begin);
  std::erase_if(places, [&](std::int64_t place) { return std::isnan(at(place)); });
  std::stable_sort(places.begin(), places.end(), [&](std::int64_t a, std::int64_t b) { return at(a) > at(b); });
  if (std::ssize(places) > count) places.resize(static_cast<std::size_t>(count));
  std::sort(places.begin(), places.end());
  return places;
}

}  // namespace

std::optional<BestSpan> best_span(std::span<const float> start_logits, std::span<const float> end_logits,
                                  std::int64_t begin, std::int64_t end, const SpanSearch& search) {
  const std::vector<std::int64_t> ends = likeliest(end_logits, begin, end, search.n_best);
  std::optional<BestSpan> best;
  for (const std::int64_t first : likeliest(start_logits, begin, end, search.n_best))
    for (const std::int64_t last : ends) {
      if (last < first || last - first >= search.max_tokens) continue;
      const double score = static_cast<double>(start_logits[static_cast<std::size_t>(first)]) +
                           static_cast<double>(end_logits[static_cast<std::size_t>(last)]);
      if (!best || score > best->score) best = {score, first, last};
    }
  return best;
}

}  // namespace qat

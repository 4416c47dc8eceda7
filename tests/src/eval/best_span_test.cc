#include "src/eval/best_span.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "src/base/rng.h"

namespace qat {
namespace {

using Logits = std::vector<float>;

TEST(BestSpan, EndsBehindItsStartAndIsNotTooLong) {
  const Logits start = {9, 0, 1, 5, 0, 0}, end = {9, 6, 0, 2, 0, 3};
  // Place 0 is not looked at; 3 -> 1 would run backwards.
  EXPECT_EQ(best_span(start, end, 1, 6, {}), (BestSpan{8, 3, 5}));
  EXPECT_EQ(best_span(start, end, 1, 6, {.max_tokens = 3}), (BestSpan{8, 3, 5}));
  EXPECT_EQ(best_span(start, end, 1, 6, {.max_tokens = 2}), (BestSpan{7, 3, 3}));
  EXPECT_EQ(best_span(start, end, 1, 5, {}), (BestSpan{7, 3, 3}));
  EXPECT_EQ(best_span(start, end, 3, 3, {}), std::nullopt);
}

TEST(BestSpan, LooksAtTheLikeliestPlacesAlone) {
  const Logits start = {0, 1, 2, 9}, end = {9, 8, 1, 0};
  EXPECT_EQ(best_span(start, end, 0, 4, {.n_best = 1}), std::nullopt);  // 3 -> 0
  EXPECT_EQ(best_span(start, end, 0, 4, {.n_best = 2}), std::nullopt);  // {2, 3} -> {0, 1}
  EXPECT_EQ(best_span(start, end, 0, 4, {.n_best = 3}), (BestSpan{9, 1, 1}));
}

TEST(BestSpan, OfEqualScoresIsTheFirst) {
  const Logits flat(5, 1.0F);
  EXPECT_EQ(best_span(flat, flat, 1, 5, {}), (BestSpan{2, 1, 1}));
}

TEST(BestSpan, NotANumberIsNoAnswer) {
  const Logits start = {0, NAN, 3}, end = {0, 5, NAN};
  EXPECT_EQ(best_span(start, end, 0, 2, {}), (BestSpan{5, 0, 1}));
  EXPECT_EQ(best_span({start.data() + 1, 1}, {end.data() + 1, 1}, 0, 1, {}), std::nullopt);
}

TEST(BestSpan, IsTheBestOfAllThatThereAre) {
  Logits start(40), end(40);
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    fill_normal({.seed = seed, .stream = 1}, 1.0F, start);
    fill_normal({.seed = seed, .stream = 2}, 1.0F, end);
    double best = -1e9;
    for (std::size_t i = 5; i < 35; ++i)
      for (std::size_t j = i; j < std::min<std::size_t>(35, i + 4); ++j)
        best = std::max(best, static_cast<double>(start[i]) + static_cast<double>(end[j]));
    EXPECT_EQ(best_span(start, end, 5, 35, {.n_best = 40, .max_tokens = 4})->score, best);
  }
}

}  // namespace
}  // namespace qat

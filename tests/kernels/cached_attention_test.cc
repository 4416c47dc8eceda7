#include "kernels/attention/cached_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/attention_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::AttentionCase;
using test::Grid;

// Two sequences, one head of two columns, room for three tokens; what lies behind a length is not a number.
TEST(CachedAttention, WeighsValuesByTheSoftmaxOfTheScores) {
  const float nan = std::nanf("");
  const Grid<float> kept(6, 4, {1, 0, 5, 6, /**/ 0,   1,   7,   8,   /**/ nan, nan, nan, nan,  //
                                3, 4, 9, 2, /**/ nan, nan, nan, nan, /**/ nan, nan, nan, nan});
  const auto root = static_cast<float>(std::sqrt(2.0));
  const Grid<float> q(2, 2, {root * std::log(3.0F), 0, 1, 1});
  const std::vector<std::int64_t> lengths = {2, 1};
  Grid<float> y(2, 2);
  cached_attention({}, q.view(), {.data = kept.values.data(), .scales = {}, .capacity = 3, .lengths = lengths},
                   /*heads=*/1, y.view());
  // Scores log 3 and 0: weights 3/4 and 1/4.
  EXPECT_NEAR(y.at(0, 0), 0.75 * 5 + 0.25 * 7, 1e-5);
  EXPECT_NEAR(y.at(0, 1), 0.75 * 6 + 0.25 * 8, 1e-5);
  EXPECT_EQ(y.at(1, 0), 9.0F) << "a token alone";
  EXPECT_EQ(y.at(1, 1), 2.0F);
}

TEST(CachedAttention, CodesAreTheValuesThatTheyStandFor) {
  const AttentionCase one(/*sequences=*/3, /*heads=*/2, /*head_width=*/20, /*capacity=*/37);
  const Grid<float> of_codes = one.on_cpu(one.coded()), of_values = one.on_cpu(one.floats());
  for (std::size_t i = 0; i < of_codes.values.size(); ++i)
    EXPECT_NEAR(of_codes.values[i], of_values.values[i], 2e-5F * one.largest_value()) << i;
}

TEST(CachedAttention, ASequenceHasTheSameBitsAloneAndWithMoreRoom) {
  const AttentionCase all(3, 2, 20, 37);
  const Grid<float> want = all.on_cpu(all.coded());
  for (std::int64_t row = 0; row < 3; ++row) {
    const AttentionCase alone = all.only(row, /*capacity=*/50);
    const Grid<float> got = alone.on_cpu(alone.coded());
    EXPECT_TRUE(test::same_bits(got.row(0), want.row(row))) << row;
  }
}

TEST(CachedAttention, ThreadsChangeNothing) {
  const AttentionCase one(5, 3, 16, 29);
  const test::ThreadsParallelFor threads(4);
  Grid<float> y(5, 48);
  cached_attention({.parallel = &threads}, one.q.view(), one.coded(), 3, y.view());
  EXPECT_TRUE(test::same_bits(y.values, one.on_cpu(one.coded()).values));
}

TEST(CachedAttention, RefusesWhatDoesNotFit) {
  const AttentionCase one(2, 2, 8, 5);
  Grid<float> y(2, 16);
  const auto message = [&](const KeptTokens& kept, std::int64_t heads = 2) {
    return test::error_of(ErrorKind::kInternal, [&] { cached_attention({}, one.q.view(), kept, heads, y.view()); });
  };
  EXPECT_THAT(message(one.coded(), 3), ::testing::HasSubstr("16 columns in 3 heads"));
  KeptTokens kept = one.coded();
  kept.scales = kept.scales.subspan(1);
  EXPECT_THAT(message(kept), ::testing::HasSubstr("19 scales"));
  kept = one.coded();
  kept.lengths = kept.lengths.subspan(1);
  EXPECT_THAT(message(kept), ::testing::HasSubstr("1 lengths for 2 sequences"));
  const std::vector<std::int64_t> too_long = {3, 6};
  kept = one.coded();
  kept.lengths = too_long;
  EXPECT_THAT(message(kept), ::testing::HasSubstr("no more than its room"));
}

}  // namespace
}  // namespace qat::kernels

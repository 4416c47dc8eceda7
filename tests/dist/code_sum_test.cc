#include "dist/grad/code_sum.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist {
namespace {

// Every rank's data by contribution number; the result that all of them got.
using Contributions = std::vector<std::vector<float>>;

// order[rank] is the contribution that this rank brings.
std::vector<float> sum_codes(const Contributions& all, const std::vector<int>& order, CodeSumOptions options) {
  std::vector<float> result;
  run_local_ranks(static_cast<int>(order.size()), [&](Communicator& comm) {
    const int mine = order[static_cast<std::size_t>(comm.rank())];
    std::vector<float> data = all[static_cast<std::size_t>(mine)];
    CodeSumOptions own = options;
    own.contribution = mine;
    all_reduce_codes(comm, data, own);
    if (comm.rank() == 0) result = data;
  });
  return result;
}

Contributions random_contributions(int count, std::int64_t elems) {
  Contributions all;
  for (int i = 0; i < count; ++i) all.push_back(testing::random_leaf(i, elems));
  return all;
}

std::vector<int> in_order(int count) {
  std::vector<int> order(static_cast<std::size_t>(count));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// By hand, 4 bits: q_max 7, block scale 7/7 = 1. Codes of 7, 2.5, -0.5 are 7, 2, 0; of -3.6, 2.5, 1.5: -4, 2, 2.
TEST(CodeSum, SumsTheCodesOfAHandComputedBlock) {
  const Contributions all{{7.0F, 2.5F, -0.5F}, {-3.6F, 2.5F, 1.5F}};
  EXPECT_EQ(sum_codes(all, {0, 1}, {.bits = 4}), (std::vector<float>{3.0F, 4.0F, 2.0F}));
}

TEST(CodeSum, TheResultIsAWholeMultipleOfTheBlocksScale) {
  constexpr std::int64_t kElems = 1000;
  for (const int bits : {2, 4, 8}) {
    for (const int ranks : {1, 4}) {
      const Contributions all = random_contributions(ranks, kElems);
      const std::vector<float> result = sum_codes(all, in_order(ranks), {.bits = bits, .block = 1000});
      float amax = 0.0F;
      for (const std::vector<float>& data : all) {
        for (const float value : data) amax = std::max(amax, std::fabs(value));
      }
      const auto q_max = static_cast<float>((1 << (bits - 1)) - 1);
      const float scale = amax / q_max;
      std::vector<float> distinct;
      for (const float value : result) {
        const float code = std::rint(value / scale);
        EXPECT_EQ(value, code * scale) << bits << " bits";
        EXPECT_LE(std::fabs(code), q_max * static_cast<float>(ranks)) << bits << " bits";
        distinct.push_back(code);
      }
      std::sort(distinct.begin(), distinct.end());
      distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
      EXPECT_LE(distinct.size(), static_cast<std::size_t>(ranks * 2 * static_cast<int>(q_max) + 1));
      EXPECT_GE(distinct.size(), 3U) << "codes that are all alike were not made from the data";
    }
  }
}

TEST(CodeSum, DoesNotDependOnWhichRankBringsWhatToTheBit) {
  const Contributions all = random_contributions(5, 777);
  for (const bool stochastic : {false, true}) {
    const CodeSumOptions options{.bits = 8, .block = 64, .stochastic = stochastic, .seed = 3, .stream = 9};
    const std::vector<float> expected = sum_codes(all, {0, 1, 2, 3, 4}, options);
    EXPECT_EQ(testing::compare_bits(sum_codes(all, {4, 3, 2, 1, 0}, options), expected), "equal");
    EXPECT_EQ(testing::compare_bits(sum_codes(all, {2, 0, 4, 1, 3}, options), expected), "equal");
  }
}

TEST(CodeSum, StochasticRoundingIsUnbiasedRepeatableAndWithinOneStep) {
  constexpr int kElems = 4000;
  Contributions all{std::vector<float>(kElems, 0.3F)};
  all[0][0] = 127.0F;  // scale 1
  const CodeSumOptions options{.bits = 8, .block = kElems, .stochastic = true, .seed = 11, .stream = 2};
  const std::vector<float> result = sum_codes(all, {0}, options);
  double mean = 0.0;
  for (int i = 1; i < kElems; ++i) {
    EXPECT_TRUE(result[static_cast<std::size_t>(i)] == 0.0F || result[static_cast<std::size_t>(i)] == 1.0F);
    mean += result[static_cast<std::size_t>(i)] / (kElems - 1);
  }
  EXPECT_NEAR(mean, 0.3, 5 * std::sqrt(0.3 * 0.7 / kElems));  // five standard deviations
  EXPECT_EQ(sum_codes(all, {0}, options), result);
  CodeSumOptions other = options;
  other.stream = 3;
  EXPECT_NE(sum_codes(all, {0}, other), result);
}

// Two ranks with equal data must round apart, or their errors would add instead of averaging out.
TEST(CodeSum, ContributionsDrawIndependently) {
  Contributions all(2, std::vector<float>(2000, 0.5F));
  all[0][0] = all[1][0] = 127.0F;
  const std::vector<float> sum = sum_codes(all, {0, 1}, {.block = 2000, .stochastic = true, .seed = 1});
  const auto ones = std::count(sum.begin(), sum.end(), 1.0F);  // one of the two rounded up: half of the time
  EXPECT_NEAR(static_cast<double>(ones), 1000.0, 5 * std::sqrt(500.0));
}

TEST(CodeSum, BlocksAreScaledApart) {
  const Contributions all{{1000.0F, -1000.0F, 1e-6F, -1e-6F, 0.0F}};
  const std::vector<float> result = sum_codes(all, {0}, {.bits = 8, .block = 2});
  EXPECT_NEAR(result[0], 1000.0F, 1e-3F);
  EXPECT_NEAR(result[2], 1e-6F, 1e-12F);
  EXPECT_EQ(result[4], 0.0F);
}

TEST(CodeSum, ZerosAndSubnormalsStayFinite) {
  const Contributions all{{0.0F, 0.0F, 0.0F, 1e-42F}, {0.0F, -0.0F, 0.0F, -1e-40F}};
  for (const float value : sum_codes(all, {0, 1}, {.block = 2})) EXPECT_EQ(value, 0.0F);
}

TEST(CodeSum, NonFiniteValuesReachEveryRank) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {inf, -inf, nan}) {
    run_local_ranks(4, [&](Communicator& comm) {
      std::vector<float> data(300, 1.0F);
      if (comm.rank() == 2) data[280] = bad;
      all_reduce_codes(comm, data, {.block = 256});
      EXPECT_FLOAT_EQ(data[0], 4.0F) << "the other block is not touched";
      for (std::size_t i = 256; i < 300; ++i) EXPECT_TRUE(std::isnan(data[i])) << bad << " at " << i;
    });
  }
}

TEST(CodeSum, RefusesWidthsWithoutCodes) {
  const std::unique_ptr<Communicator> comm = make_single_comm();
  std::vector<float> data(4, 1.0F);
  EXPECT_THROW(all_reduce_codes(*comm, data, {.bits = 1}), Error);
  EXPECT_THROW(all_reduce_codes(*comm, data, {.bits = 17}), Error);
  EXPECT_THROW(all_reduce_codes(*comm, data, {.block = 0}), Error);
}

}  // namespace
}  // namespace qat::dist

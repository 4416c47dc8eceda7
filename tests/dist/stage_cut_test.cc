#include "dist/pipeline/stage_cut.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <random>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

using ::testing::ElementsAre;

LayerCosts alike(std::int64_t blocks, double embedding, double head) {
  return {.blocks = std::vector<double>(static_cast<std::size_t>(blocks), 1.0), .embedding = embedding, .head = head};
}

double slowest(const LayerCosts& costs, const StageCut& cut, int stages) {
  const std::vector<double> of_stages = stage_costs(costs, cut, stages);
  return *std::max_element(of_stages.begin(), of_stages.end());
}

// The slowest stage of the best of all cuts, one by one.
double best_of_all(const LayerCosts& costs, int stages, int chunks) {
  double best = std::numeric_limits<double>::infinity();
  StageCut cut{0};
  const auto blocks = std::ssize(costs.blocks);
  const std::function<void()> grow = [&] {
    if (std::ssize(cut) == stages * chunks) {
      best = std::min(best, slowest(costs, cut, stages));
      return;
    }
    for (std::int64_t first = cut.back() + 1; first < blocks; ++first) {
      cut.push_back(first);
      grow();
      cut.pop_back();
    }
  };
  grow();
  return best;
}

TEST(StageCut, TheHeadTakesThePlaceOfAsManyBlocksAsItCosts) {
  const LayerCosts small = alike(12, /*embedding=*/0.25, /*head=*/5.0);
  EXPECT_THAT(cut_stages(small, 1), ElementsAre(0));
  EXPECT_THAT(cut_stages(small, 2), ElementsAre(0, 8));  // 8.25 and 9; by count it would be 6.25 and 11
  EXPECT_THAT(stage_costs(small, {0, 8}, 2), ElementsAre(8.25, 9.0));
  EXPECT_THAT(cut_stages(small, 4), ElementsAre(0, 3, 7, 11));  // the head and one block are the slowest
  EXPECT_THAT(cut_stages(alike(48, 0.0, 0.0), 4), ElementsAre(0, 12, 24, 36));
  EXPECT_THAT(cut_stages(alike(3, 9.0, 9.0), 3), ElementsAre(0, 1, 2));
}

TEST(StageCut, CostsOfPiecesAddUpToThoseOfTheirStage) {
  const LayerCosts costs = alike(6, 0.5, 2.0);
  EXPECT_THAT(piece_costs(costs, {0, 2, 3, 5}), ElementsAre(2.5, 1.0, 2.0, 3.0));
  EXPECT_THAT(stage_costs(costs, {0, 2, 3, 5}, 2), ElementsAre(4.5, 4.0));
}

TEST(StageCut, NoOtherCutHasAFasterSlowestStage) {
  std::mt19937 random(7);
  std::uniform_real_distribution<double> cost(0.1, 3.0);
  for (int round = 0; round < 40; ++round) {
    LayerCosts costs{.embedding = cost(random), .head = 3.0 * cost(random)};
    for (int i = 0; i < 3 + round % 8; ++i) costs.blocks.push_back(cost(random));
    for (int stages = 1; stages <= std::min<int>(5, static_cast<int>(costs.blocks.size())); ++stages) {
      const StageCut cut = cut_stages(costs, stages);
      ASSERT_EQ(std::ssize(cut), stages);
      EXPECT_NEAR(slowest(costs, cut, stages), best_of_all(costs, stages, 1), 1e-9) << round << ' ' << stages;
    }
  }
}

TEST(StageCut, WithSeveralChunksTheSumOfAStagesPiecesCounts) {
  std::mt19937 random(9);
  std::uniform_real_distribution<double> cost(0.1, 6.0);
  for (int round = 0; round < 25; ++round) {
    const LayerCosts costs = alike(4 + round % 9, cost(random), cost(random));
    for (const auto& [stages, chunks] : {std::pair{2, 2}, {2, 3}, {3, 2}, {1, 4}}) {
      if (stages * chunks > std::ssize(costs.blocks)) continue;
      const StageCut cut = cut_stages(costs, stages, chunks);
      ASSERT_EQ(std::ssize(cut), stages * chunks);
      EXPECT_TRUE(std::is_sorted(cut.begin(), cut.end(), std::less_equal<>())) << "every piece has a block";
      EXPECT_EQ(cut[0], 0);
      EXPECT_LT(cut.back(), std::ssize(costs.blocks));
      EXPECT_NEAR(slowest(costs, cut, stages), best_of_all(costs, stages, chunks), 1e-9)
          << round << ' ' << stages << ' ' << chunks;
    }
  }
}

TEST(StageCut, AmongEquallyFastCutsTheEvenOneIsTaken) {
  // The head alone is slowest wherever the first stages are cut.
  EXPECT_THAT(cut_stages(alike(10, 0.0, 20.0), 4), ElementsAre(0, 3, 6, 9));
  EXPECT_THAT(cut_stages(alike(8, 0.0, 0.0), 2, 2), ElementsAre(0, 2, 4, 6));
}

TEST(StageCut, MorePiecesThanBlocksAreABrokenPromise) {
  EXPECT_THROW(cut_stages(alike(3, 0.0, 0.0), 4), Error);
  EXPECT_THROW(cut_stages(alike(3, 0.0, 0.0), 2, 2), Error);
}

}  // namespace
}  // namespace qat::dist

// The update of a shard against AdamW written out in double, and what segments cut by shards keep.
#include "src/optim/sharded_adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"
#include "kernels/optim/adamw_flat.h"

namespace qat {
namespace {

constexpr std::int64_t kTotal = 2 * kNormBlock;
const OptimConfig kConfig{.beta1 = 0.7, .beta2 = 0.8, .eps = 1e-3, .weight_decay = 0.25};
// The second lies across the boundary of two shards; the third has no decay, the fourth no gradient.
const std::vector<OptimSegment> kSegments = {
    {.offset = 0, .elems = 100}, {.offset = 4000, .elems = 400}, {4400, 50, false}, {5000, 10}};
const std::vector<bool> kProduced = {true, true, true, false};

float value(std::size_t i) { return 0.1F * static_cast<float>(i % 13) - 0.5F; }
float gradient(std::size_t i, int step) {
  return 0.3F * static_cast<float>((i + static_cast<std::size_t>(step)) % 7) - 1.0F;
}

double by_hand(std::size_t i, int steps, bool decay) {
  double p = value(i), m = 0.0, v = 0.0;
  for (int t = 1; t <= steps; ++t) {
    const double g = 0.5 * gradient(i, t);
    m = 0.7 * m + 0.3 * g, v = 0.8 * v + 0.2 * g * g;
    const double step = (m / (1 - std::pow(0.7, t))) / (std::sqrt(v / (1 - std::pow(0.8, t))) + 1e-3);
    p -= 0.05 * (step + (decay ? 0.25 * p : 0.0));
  }
  return p;
}

TEST(ShardedAdamW, UpdatesItsShardOfEverySegmentWithAGradient) {
  for (const dist::ShardRange shard : {dist::ShardRange{0, kTotal}, {0, kNormBlock}, {kNormBlock, kTotal}}) {
    ShardedAdamW optimizer(kSegments, shard, kConfig);
    std::vector<float> params(kTotal), grads(kTotal);
    for (std::size_t i = 0; i < params.size(); ++i) params[i] = value(i);
    for (int step = 1; step <= 3; ++step) {
      for (std::size_t i = 0; i < grads.size(); ++i) grads[i] = gradient(i, step);
      optimizer.step({}, params, grads, kProduced, /*learning_rate=*/0.05, /*gradient_scale=*/0.5);
    }
    for (std::size_t s = 0; s < kSegments.size(); ++s) {
      for (std::int64_t at = kSegments[s].offset; at < kSegments[s].offset + kSegments[s].elems; ++at) {
        const auto i = static_cast<std::size_t>(at);
        const bool moves = kProduced[s] && at >= shard.begin && at < shard.end;
        EXPECT_NEAR(params[i], moves ? by_hand(i, 3, kSegments[s].decay) : value(i), 1e-5) << i;
      }
    }
    EXPECT_EQ(params[500], value(500));                                     // no segment
    EXPECT_EQ(optimizer.steps(), (std::vector<std::int64_t>{3, 3, 3, 0}));  // on every rank, whoever has the elements
  }
}

TEST(ShardedAdamW, TellsOnceOfElementsThatKeptTheirValues) {
  ShardedAdamW optimizer(kSegments, {0, kTotal}, kConfig);
  std::vector<float> params(kTotal, 1.0F), grads(kTotal, 1.0F);
  const auto step = [&] {
    optimizer.step({}, params, grads, kProduced, /*learning_rate=*/0.05, /*gradient_scale=*/1.0);
  };
  step();
  EXPECT_FALSE(optimizer.take_refused({}));
  grads[4005] = 1e30F;     // its square is infinite
  grads[5003] = INFINITY;  // in a segment that this step leaves alone
  const float before = params[4005];
  step();
  step();
  EXPECT_EQ(params[4005], before);
  EXPECT_TRUE(optimizer.take_refused({}));
  EXPECT_FALSE(optimizer.take_refused({}));
  grads[4005] = 1.0F;
  step();
  EXPECT_FALSE(optimizer.take_refused({}));
  EXPECT_NE(params[4005], before);
  for (const float value : params) ASSERT_TRUE(std::isfinite(value));
}

TEST(ShardedAdamW, ABetaThatFp32RoundsToOneStillTrains) {
  OptimConfig config = kConfig;
  config.beta1 = config.beta2 = 0.99999999;
  ShardedAdamW optimizer(kSegments, {0, kTotal}, config);
  std::vector<float> params(kTotal, 1.0F), grads(kTotal, 0.5F);
  optimizer.step({}, params, grads, kProduced, /*learning_rate=*/0.05, /*gradient_scale=*/1.0);
  EXPECT_FALSE(optimizer.take_refused({}));
  // The first step of Adam is the learning rate, whatever the betas; without decay in the third segment.
  EXPECT_NEAR(params[4420], 1.0 - 0.05 * 0.5 / (0.5 + 1e-3), 1e-6);
  EXPECT_NEAR(params[50], 1.0 - 0.05 * (0.5 / (0.5 + 1e-3) + 0.25), 1e-6);
}

TEST(GlobalNorm, IsOfTheShardsOfAllRanks) {
  dist::run_local_ranks(2, [](dist::Communicator& comm) {
    std::vector<float> shard(kNormBlock, 0.0F);
    shard[7] = comm.rank() == 0 ? 3.0F : 4.0F;
    EXPECT_EQ(global_norm(comm, {}, shard), 5.0);
    EXPECT_THROW((void)global_norm(comm, {}, std::span<const float>(shard).first(100)), Error);
  });
}

// Tensors of a flat buffer, each at a multiple of kNormBlock, and the norm by its definition: block after block of each
// tensor, tensor after tensor.
TEST(GlobalNorm, HasTheSameBitsOnAnyNumberOfRanks) {
  std::vector<float> flat;
  double expected = 0.0;
  for (const std::int64_t elems : {3 * kNormBlock, std::int64_t{5}, 2 * kNormBlock + 77, kNormBlock, std::int64_t{1}}) {
    std::vector<float> tensor(static_cast<std::size_t>(elems));
    for (std::size_t i = 0; i < tensor.size(); ++i) tensor[i] = gradient(i * 31, 3) * (1.0F + 1e-3F * value(i));
    std::vector<double> partial(static_cast<std::size_t>((elems + kNormBlock - 1) / kNormBlock));
    kernels::block_sum_squares({}, tensor, kNormBlock, partial);
    for (const double sum : partial) expected += sum;
    flat.insert(flat.end(), tensor.begin(), tensor.end());
    flat.resize((flat.size() + kNormBlock - 1) / kNormBlock * kNormBlock);
  }
  for (const int ranks : {1, 2, 3, 4, 6, 8}) {
    const std::size_t blocks = flat.size() / kNormBlock,
                      share = (blocks + static_cast<std::size_t>(ranks) - 1) / static_cast<std::size_t>(ranks);
    std::vector<float> padded = flat;
    padded.resize(share * kNormBlock * static_cast<std::size_t>(ranks));
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      const std::size_t elems = share * kNormBlock;
      const std::span<const float> mine =
          std::span<const float>(padded).subspan(static_cast<std::size_t>(comm.rank()) * elems, elems);
      EXPECT_EQ(global_norm(comm, {}, mine), std::sqrt(expected)) << ranks << " ranks";
    });
  }
}

}  // namespace
}  // namespace qat

// The update of a rank's shards against AdamW written out in double.
#include "src/optim/sharded_adamw.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/common/error.h"
#include "tests/support/optim_layouts.h"

namespace qat {
namespace {

const OptimConfig kConfig{.beta1 = 0.7, .beta2 = 0.8, .eps = 1e-3, .weight_decay = 0.25};
// The third of the seven tensors has no decay, the fourth no gradient.
const std::vector<bool> kProduced = {true, true, true, false, true, true, true};

float value(std::size_t tensor, std::int64_t i) {
  return 0.1F * static_cast<float>((i + static_cast<std::int64_t>(tensor)) % 13) - 0.5F;
}
float gradient(std::size_t tensor, std::int64_t i, int step) {
  return 0.3F * static_cast<float>((i + 2 * static_cast<std::int64_t>(tensor) + step) % 7) - 1.0F;
}

double by_hand(std::size_t tensor, std::int64_t i, int steps, double learning_rate, double scale) {
  double p = value(tensor, i), m = 0.0, v = 0.0;
  for (int t = 1; t <= steps; ++t) {
    const double g = scale * gradient(tensor, i, t);
    m = 0.7 * m + 0.3 * g, v = 0.8 * v + 0.2 * g * g;
    const double step = (m / (1 - std::pow(0.7, t))) / (std::sqrt(v / (1 - std::pow(0.8, t))) + 1e-3);
    p -= learning_rate * (step + (tensor == 2 ? 0.0 : 0.25 * p));
  }
  return p;
}

using Flat = std::vector<std::vector<float>>;

const std::vector<float> kRates = {0.05F, 0.05F};
const std::vector<double> kScales = {1.0, 1.0};

void step(ShardedAdamW& optimizer, int rank, Flat& params, const Flat& grads,
          const std::vector<double>& gradient_scales = kScales, const std::vector<float>& rates = kRates) {
  optimizer.step({}, test::shards_to_update(optimizer.layout(), rank, params),
                 test::shards_of(optimizer.layout(), rank, grads), kProduced, rates, gradient_scales);
}

TEST(ShardedAdamW, UpdatesItsShardsOfEveryTensorWithAGradient) {
  for (const int ranks : {1, 3, 4}) {
    for (const std::int64_t bucket_elems : test::kBucketSizes) {
      OptimLayout layout = test::two_groups(ranks, bucket_elems);
      layout.tensors[4].learning_rate_factor = 0.1;
      for (int rank = 0; rank < ranks; ++rank) {
        ShardedAdamW optimizer(layout, rank, kConfig);
        Flat params = test::flat_values(layout, value);
        for (int t = 1; t <= 3; ++t)
          step(optimizer, rank, params,
               test::flat_values(layout, [&](std::size_t k, std::int64_t i) { return gradient(k, i, t); }), {0.5, 0.75},
               {0.05F, 0.025F});
        std::vector<std::vector<bool>> mine;
        for (const std::int64_t elems : test::kTensorElems) mine.emplace_back(static_cast<std::size_t>(elems), false);
        for (const OwnedPart& part : optimizer.parts())
          for (std::int64_t i = part.first; i < part.first + part.elems; ++i)
            mine[static_cast<std::size_t>(part.tensor)][static_cast<std::size_t>(i)] = true;
        for (std::size_t t = 0; t < mine.size(); ++t) {
          const dist::FlatLayout::Tensor& place = layout.place(layout.tensors[t]);
          const std::vector<float>& flat = params[static_cast<std::size_t>(layout.tensors[t].group)];
          for (std::int64_t i = 0; i < place.elems; ++i) {
            const bool moves = kProduced[t] && mine[t][static_cast<std::size_t>(i)];
            const double expected =
                moves ? by_hand(t, i, 3, (t % 2 == 1 ? 0.025 : 0.05) * (t == 4 ? 0.1 : 1.0), t % 2 == 1 ? 0.75 : 0.5)
                      : value(t, i);
            ASSERT_NEAR(flat[static_cast<std::size_t>(place.offset + i)], expected, 1e-5) << t << " " << i;
          }
        }
        // On every rank, whoever has the elements.
        EXPECT_EQ(optimizer.steps(), (std::vector<std::int64_t>{3, 3, 3, 0, 3, 3, 3}));
      }
    }
  }
}

TEST(ShardedAdamW, KeepsTheMomentsOfAPartWhereThePartSays) {
  const OptimLayout layout = test::two_groups(2, test::kBucketSizes[1]);
  for (int rank = 0; rank < 2; ++rank) {
    ShardedAdamW optimizer(layout, rank, kConfig);
    Flat params = test::flat_values(layout, value);
    const auto g = [](std::size_t t, std::int64_t i) { return gradient(t, i, 1); };
    step(optimizer, rank, params, test::flat_values(layout, g));
    ASSERT_FALSE(optimizer.parts().empty());
    for (const OwnedPart& part : optimizer.parts()) {
      const auto t = static_cast<std::size_t>(part.tensor);
      for (std::int64_t i = 0; i < part.elems; ++i) {
        const float m = optimizer.exp_avg()[static_cast<std::size_t>(part.offset + i)];
        const float v = optimizer.exp_avg_sq()[static_cast<std::size_t>(part.offset + i)];
        const double want = kProduced[t] ? g(t, part.first + i) : 0.0;
        ASSERT_NEAR(m, 0.3 * want, 1e-6) << t << " " << i;
        ASSERT_NEAR(v, 0.2 * want * want, 1e-6) << t << " " << i;
      }
    }
  }
}

class ShardedAdamWAlone : public ::testing::Test {
 protected:
  void step() { qat::step(optimizer_, 0, params_, grads_); }
  float& param(std::size_t tensor, std::int64_t i) { return at(params_, tensor, i); }
  float& grad(std::size_t tensor, std::int64_t i) { return at(grads_, tensor, i); }
  float& at(Flat& flat, std::size_t tensor, std::int64_t i) {
    const OptimTensor& which = layout_.tensors[tensor];
    return flat[static_cast<std::size_t>(which.group)][static_cast<std::size_t>(layout_.place(which).offset + i)];
  }

  OptimLayout layout_ = test::two_groups(1, test::kBucketSizes[1]);
  OptimConfig config_ = kConfig;
  ShardedAdamW optimizer_{layout_, 0, config_};
  Flat params_ = test::flat_values(layout_, [](std::size_t, std::int64_t) { return 1.0F; });
  Flat grads_ = params_;
};

TEST_F(ShardedAdamWAlone, TellsOnceOfElementsThatKeptTheirValues) {
  step();
  EXPECT_FALSE(optimizer_.take_refused({}));
  grad(1, 3) = 1e30F;     // its square is infinite
  grad(3, 3) = INFINITY;  // in a tensor that this step leaves alone
  const float before = param(1, 3);
  step();
  step();
  EXPECT_EQ(param(1, 3), before);
  EXPECT_TRUE(optimizer_.take_refused({}));
  EXPECT_FALSE(optimizer_.take_refused({}));
  grad(1, 3) = 1.0F;
  step();
  EXPECT_FALSE(optimizer_.take_refused({}));
  EXPECT_NE(param(1, 3), before);
  for (const std::vector<float>& flat : params_)
    for (const float one : flat) ASSERT_TRUE(std::isfinite(one));
}

TEST_F(ShardedAdamWAlone, ABetaThatFp32RoundsToOneStillTrains) {
  config_.beta1 = config_.beta2 = 0.99999999;
  optimizer_ = ShardedAdamW(layout_, 0, config_);
  for (std::vector<float>& flat : grads_)
    for (float& one : flat) one *= 0.5F;
  step();
  EXPECT_FALSE(optimizer_.take_refused({}));
  // The first step of Adam is the learning rate, whatever the betas; without decay in the third tensor.
  EXPECT_NEAR(param(2, 20), 1.0 - 0.05 * 0.5 / (0.5 + 1e-3), 1e-6);
  EXPECT_NEAR(param(0, 50), 1.0 - 0.05 * (0.5 / (0.5 + 1e-3) + 0.25), 1e-6);
}

TEST_F(ShardedAdamWAlone, NeedsEveryGroupAndEveryBucket) {
  const auto values = test::shards_to_update(layout_, 0, params_);
  auto shards = test::shards_of(layout_, 0, grads_);
  shards[1].pop_back();
  EXPECT_THROW(optimizer_.step({}, values, shards, kProduced, kRates, kScales), Error);
  shards.pop_back();
  EXPECT_THROW(optimizer_.step({}, values, shards, kProduced, kRates, kScales), Error);
}

TEST_F(ShardedAdamWAlone, LeavesAGroupWithoutGradientsAlone) {
  step();
  const Flat before = params_;
  const std::vector<float> moments(optimizer_.exp_avg().begin(), optimizer_.exp_avg().end());
  auto shards = test::shards_of(layout_, 0, grads_);
  shards[0].clear();
  std::vector<bool> produced = kProduced;
  EXPECT_THROW(optimizer_.step({}, test::shards_to_update(layout_, 0, params_), shards, produced, kRates, kScales),
               Error);
  for (std::size_t i = 0; i < produced.size(); ++i) produced[i] = produced[i] && layout_.tensors[i].group == 1;
  optimizer_ = ShardedAdamW(layout_, 0, config_);
  params_ = before;
  step();
  const Flat after_one = params_;
  const std::vector<std::int64_t> steps = optimizer_.steps();
  optimizer_.step({}, test::shards_to_update(layout_, 0, params_), shards, produced, kRates, kScales);
  EXPECT_EQ(params_[0], after_one[0]);
  EXPECT_NE(params_[1], after_one[1]);
  for (const OwnedPart& part : optimizer_.parts()) {
    const auto i = static_cast<std::size_t>(part.tensor);
    EXPECT_EQ(optimizer_.steps()[i], steps[i] + (produced[i] ? 1 : 0)) << i;
    if (layout_.tensors[i].group == 0)
      for (std::int64_t at = part.offset; at < part.offset + part.elems; ++at)
        ASSERT_EQ(optimizer_.exp_avg()[static_cast<std::size_t>(at)], moments[static_cast<std::size_t>(at)]);
  }
}

}  // namespace
}  // namespace qat

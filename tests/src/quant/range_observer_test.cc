#include "src/quant/range_observer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

RangeObserver observer_of(const Quantizer& quantizer, int bits, std::int64_t cols,
                          const CalibratedRange* replaced = nullptr) {
  return {quantizer, BitWidth(bits), cols, at::kCPU, replaced};
}

TEST(RangeObserver, TakesTheWidestRangeOfItsBatches) {
  const Quantizer q("layer", "activation", {.granularity = Granularity::kFeature, .range = RangeSource::kCalibrated});
  RangeObserver seen = observer_of(q, 8, 2);
  seen.observe(at::tensor({1.0F, -3.0F}).view({1, 2}));
  seen.observe(at::tensor({-2.0F, 0.5F}).view({1, 2}));
  EXPECT_TRUE(at::equal(seen.lo(), at::tensor({-2.0F, -3.0F})));
  EXPECT_TRUE(at::equal(seen.hi(), at::tensor({1.0F, 0.5F})));
  EXPECT_EQ(seen.values(), 4);
}

TEST(RangeObserver, IsNeutralBeforeItsFirstBatch) {
  const Quantizer tensor("layer", "activation",
                         {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  EXPECT_EQ(observer_of(tensor, 8, 5).lo().numel(), 1);
  const Quantizer feature(
      "layer", "activation",
      {.method = QuantizerKind::kLog, .granularity = Granularity::kFeature, .range = RangeSource::kCalibrated});
  const RangeObserver nothing = observer_of(feature, 2, 5);
  EXPECT_TRUE(at::equal(nothing.lo(), at::full({5}, INFINITY)));
  EXPECT_TRUE(at::equal(nothing.hi(), at::full({5}, -INFINITY)));
  EXPECT_TRUE(nothing.means().empty());
  EXPECT_EQ(nothing.beyond(), 0);
}

// The one magnitude of 2-bit packed log codes is 2 to the mean exponent; nothing else has a mean.
TEST(RangeObserver, KeepsTheMeanOfEachBatchWhereOneIsWanted) {
  const QuantizerConfig config{
      .method = QuantizerKind::kLog, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  const Quantizer q("layer", "activation", config);
  RangeObserver two = observer_of(q, 2, 6);
  for (const float value : {2.0F, 32.0F}) two.observe(at::full({1, 6}, value));
  ASSERT_EQ(two.means().size(), 2U);
  EXPECT_NEAR(two.means()[0].item<double>(), 1.0, 1e-5);
  EXPECT_NEAR(two.means()[1].item<double>(), 5.0, 1e-5);
  RangeObserver three = observer_of(q, 3, 6);
  three.observe(at::full({1, 6}, 2.0F));
  EXPECT_TRUE(three.means().empty());
  QuantizerConfig seed = config;
  seed.log_codebook = LogCodebook::kSeed;
  const Quantizer other("layer", "activation", seed);
  RangeObserver seeds = observer_of(other, 2, 6);
  seeds.observe(at::full({1, 6}, 2.0F));
  EXPECT_TRUE(seeds.means().empty());
}

TEST(RangeObserver, RefusesWhatIsNotFinite) {
  const Quantizer q("h.3.mlp.c_fc", "activation",
                    {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  for (const float bad : {INFINITY, NAN}) {
    RangeObserver seen = observer_of(q, 8, 2);
    try {
      seen.observe(at::tensor({1.0F, bad}));
      FAIL() << bad << " was accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
      EXPECT_THAT(error.what(), AllOf(HasSubstr("h.3.mlp.c_fc"), HasSubstr("8 bits")));
    }
  }
}

// Calibration on zeros, constants and subnormals gives scales that are finite and above zero.
TEST(RangeObserver, AnyFiniteBatchGivesAUsableRange) {
  for (const QuantizerKind method : {QuantizerKind::kMinMax, QuantizerKind::kLog}) {
    for (const float value : {0.0F, 1e-42F, 7.0F, 3e38F}) {
      Quantizer q("layer", "activation",
                  {.method = method, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
      RangeObserver seen = observer_of(q, 4, 3);
      const at::Tensor x = at::full({2, 3}, value);
      seen.observe(x);
      const CalibratedRange range{.lo = seen.lo(), .hi = seen.hi(), .mean = {}};
      EXPECT_TRUE(at::isfinite(q.fake_quant(x, BitWidth(4), &range)).all().item<bool>())
          << enum_name(method) << " " << value;
    }
  }
}

TEST(RangeObserver, CountsWhatTheRangeItReplacesDoesNotReach) {
  const at::Tensor x = at::tensor({-3.0F, -1.5F, 0.0F, 0.25F, 1.0F, 5.0F}).view({2, 3});
  const CalibratedRange old{.lo = at::tensor({-1.0F}), .hi = at::tensor({2.0F}), .mean = {}};
  // Symmetric codes reach as far below zero as above; affine ones do not, but always to zero.
  const Quantizer symmetric("layer", "activation",
                            {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  RangeObserver by_symmetric = observer_of(symmetric, 8, 3, &old);
  by_symmetric.observe(x);
  by_symmetric.observe(x);
  EXPECT_EQ(by_symmetric.beyond(), 2 * 2);  // -3 and 5, in each batch
  EXPECT_EQ(by_symmetric.values(), 2 * 6);
  const Quantizer affine("layer", "activation",
                         {.symmetric = false, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  RangeObserver by_affine = observer_of(affine, 8, 3, &old);
  by_affine.observe(x);
  EXPECT_EQ(by_affine.beyond(), 3);  // -1.5 too
  const CalibratedRange above{.lo = at::tensor({1.0F}), .hi = at::tensor({2.0F}), .mean = {}};
  RangeObserver to_zero = observer_of(affine, 8, 3, &above);
  to_zero.observe(at::tensor({0.5F, 0.0F, 3.0F}).view({1, 3}));
  EXPECT_EQ(to_zero.beyond(), 1);
  // Exponents: of 3, 1.5, 0.25, 1 and 5 those outside -1 .. 2, zeros not counted.
  const Quantizer log(
      "layer", "activation",
      {.method = QuantizerKind::kLog, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  RangeObserver by_log = observer_of(log, 8, 3, &old);
  by_log.observe(x);
  EXPECT_EQ(by_log.beyond(), 2);
  // One range a feature.
  const Quantizer feature("layer", "activation",
                          {.granularity = Granularity::kFeature, .range = RangeSource::kCalibrated});
  const CalibratedRange each{.lo = at::tensor({-9.0F, 0.0F, -9.0F}), .hi = at::tensor({9.0F, 1.0F, 9.0F}), .mean = {}};
  RangeObserver by_feature = observer_of(feature, 8, 3, &each);
  by_feature.observe(x);
  EXPECT_EQ(by_feature.beyond(), 1);  // -1.5
}

}  // namespace
}  // namespace qat

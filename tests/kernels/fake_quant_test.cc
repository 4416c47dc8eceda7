#include "kernels/quant/fake_quant.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>

#include "kernels/quant/fake_quant_cpu.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::FloatNear;
using ::testing::HasSubstr;
using ::testing::Pointwise;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
const Grid<float> kGolden(1, 9, {-1.0F, -.6F, -.25F, -.04F, 0.0F, .02F, .13F, .5F, .9F});

// Each fits its parameters to the whole of x and quantizes it, as a dynamic per-tensor quantizer does.
std::vector<float> symmetric(const Grid<float>& x, int bits) {
  std::vector<float> lo(1), hi(1), y(x.values.size());
  min_max(Exec{}, x.view(), Axis::kTensor, lo, hi);
  const std::vector<float> scale{symmetric_params(lo[0], hi[0], BitWidth(bits)).scale};
  fake_quant_symmetric(Exec{}, x.view(), Axis::kTensor, scale, {.width = BitWidth(bits)}, {y.data(), x.rows, x.cols});
  return y;
}

std::vector<float> affine(const Grid<float>& x, int bits) {
  std::vector<float> lo(1), hi(1), y(x.values.size());
  min_max(Exec{}, x.view(), Axis::kTensor, lo, hi);
  const AffineParams params = affine_params(lo[0], hi[0], BitWidth(bits));
  const std::vector<float> scale{params.scale}, zero{params.zero_point};
  fake_quant_affine(Exec{}, x.view(), Axis::kTensor, scale, zero, BitWidth(bits), {y.data(), x.rows, x.cols});
  return y;
}

std::vector<float> logarithmic(const Grid<float>& x, int bits, LogCodebook codebook, bool masked) {
  std::vector<float> lo(1), hi(1), y(x.values.size());
  log_range(Exec{}, x.view(), Axis::kTensor, kLogEps, masked, lo, hi);
  std::vector<float> range{hi[0] - lo[0]};
  if (codebook == LogCodebook::kPacked && bits == 2) {
    log_mean(Exec{}, x.view(), Axis::kTensor, kLogEps, lo);
    range[0] = 0.0F;
  }
  fake_quant_log(Exec{}, x.view(), Axis::kTensor, lo, range, BitWidth(bits), codebook, {y.data(), x.rows, x.cols});
  return y;
}

void expect_near(const std::vector<float>& got, const std::vector<float>& want) {  // golden values have six digits
  EXPECT_THAT(got, Pointwise(FloatNear(1.5e-6F), want));
}

TEST(FakeQuant, SymmetricGivesTheGoldenValues) {
  expect_near(symmetric(kGolden, 2), {-1, -1, 0, 0, 0, 0, 0, 0, 1});
  expect_near(symmetric(kGolden, 3), {-1, -.666667F, -.333333F, 0, 0, 0, 0, .666667F, 1});
  // 0.5 is a tie in exact arithmetic only: see the golden codes of encode.
  expect_near(symmetric(kGolden, 4), {-1, -.571429F, -.285714F, 0, 0, 0, .142857F, .428571F, .857143F});
  expect_near(symmetric(kGolden, 8), {-1, -.598425F, -.251969F, -.039370F, 0, .023622F, .133858F, .503937F, .897638F});
}

TEST(FakeQuant, AffineGivesTheGoldenValues) {
  expect_near(affine(kGolden, 2), {-1.266667F, -.633333F, 0, 0, 0, 0, 0, .633333F, .633333F});
  expect_near(affine(kGolden, 4), {-1.013333F, -.633333F, -.253333F, 0, 0, 0, .126667F, .506667F, .886667F});
}

TEST(FakeQuant, AffineExtendsAOneSignedRangeToZero) {
  const AffineParams positive = affine_params(0.2F, 1.0F, BitWidth(4));
  EXPECT_FLOAT_EQ(positive.scale, 1.0F / 15.0F);
  EXPECT_TRUE(test::same_bits(std::vector<float>{positive.zero_point}, std::vector<float>{0.0F}));
  // 0.5 is a tie in exact arithmetic only: the fp32 number next to 1/15 is larger than it, so 0.5 rounds to 7 steps.
  expect_near(affine(Grid<float>(1, 4, {.2F, .35F, .5F, 1.0F}), 4), {.2F, .333333F, .466667F, 1.0F});
  EXPECT_EQ(affine_params(-1.0F, -0.2F, BitWidth(4)).zero_point, 15.0F);
  expect_near(affine(Grid<float>(1, 4, {-.2F, -.35F, -.5F, -1.0F}), 4), {-.2F, -.333333F, -.466667F, -1.0F});
}

TEST(FakeQuant, LogSeedGivesTheGoldenValues) {
  const auto seed = [](int bits, bool masked) { return logarithmic(kGolden, bits, LogCodebook::kSeed, masked); };
  expect_near(seed(2, false), {-1, -1, -1, -.003162F, 0, .003162F, 1, 1, 1});
  expect_near(seed(3, false), {-1, -1, -.146780F, -.021544F, 0, .021544F, .146780F, 1, 1});
  expect_near(seed(4, false), {-1, -.439397F, -.193070F, -.037276F, 0, .016379F, .193070F, .439397F, 1});
  expect_near(seed(3, true), {-1, -.521001F, -.271442F, -.038388F, 0, .02F, .141421F, .521001F, 1});
}

TEST(FakeQuant, LogPackedGivesTheGoldenValues) {
  const auto packed = [](int bits) { return logarithmic(kGolden, bits, LogCodebook::kPacked, /*masked=*/true); };
  expect_near(packed(3), {-1, -1, -.141421F, -.02F, 0, .02F, .141421F, 1, 1});
  expect_near(packed(4), {-1, -.521001F, -.271442F, -.038388F, 0, .02F, .141421F, .521001F, 1});
  const float mean = std::pow(1.0F * .6F * .25F * .04F * .02F * .13F * .5F * .9F, 1.0F / 8);
  expect_near(packed(2), {-mean, -mean, -mean, -mean, 0, mean, mean, mean, mean});
}

TEST(FakeQuant, LogCodebooksDifferInWhetherEpsItselfIsZero) {
  const Grid<float> x(1, 3, {kLogEps, -kLogEps, 1.0F});
  EXPECT_EQ(logarithmic(x, 4, LogCodebook::kPacked, true), (std::vector<float>{0, 0, 1}));
  expect_near(logarithmic(x, 4, LogCodebook::kSeed, false), {kLogEps, -kLogEps, 1});
  EXPECT_NE(logarithmic(x, 4, LogCodebook::kSeed, false)[0], 0.0F);
}

class FakeQuantAtWidth : public ::testing::TestWithParam<int> {
 protected:
  // Sorted, of both signs, dense on a linear and on a logarithmic scale, with a zero; the largest magnitudes are 8.
  static Grid<float> sorted_values() {
    Grid<float> x(1, 3001);
    for (std::int64_t i = 0; i < 1500; ++i) {
      const float magnitude = 8.0F * std::exp2(-static_cast<float>(i) * 0.006F);
      x.at(0, i) = -magnitude;
      x.at(0, 3000 - i) = magnitude;
    }
    return x;
  }
  const int bits = GetParam();
  const Grid<float> x = sorted_values();
  const std::vector<std::vector<float>> all = {symmetric(x, bits), affine(x, bits),
                                               logarithmic(x, bits, LogCodebook::kSeed, true),
                                               logarithmic(x, bits, LogCodebook::kPacked, true)};
};

TEST_P(FakeQuantAtWidth, EveryQuantizerIsMonotone) {
  for (const auto& y : all) EXPECT_TRUE(std::is_sorted(y.begin(), y.end()));
}

TEST_P(FakeQuantAtWidth, EveryQuantizerHasItsCountOfLevels) {
  const auto levels = [](const std::vector<float>& y) { return std::set<float>(y.begin(), y.end()).size(); };
  EXPECT_EQ(levels(all[0]), (1U << bits) - 1);
  EXPECT_LE(levels(all[1]), 1U << bits);
  EXPECT_GE(levels(all[1]), (1U << bits) - 1);  // of a range around zero one end may not be reached
  EXPECT_EQ(levels(all[2]), (2U << bits) - 1);
  EXPECT_EQ(levels(all[3]), (1U << bits) - 1);
}

TEST_P(FakeQuantAtWidth, TheLargestValueStaysItself) {
  EXPECT_FLOAT_EQ(all[0].front(), -8.0F);
  EXPECT_FLOAT_EQ(all[0].back(), 8.0F);
  EXPECT_FLOAT_EQ(all[2].back(), 8.0F);
  if (bits == 2) return;  // packed, they have one magnitude: the mean
  EXPECT_FLOAT_EQ(all[3].back(), 8.0F);
}

TEST_P(FakeQuantAtWidth, QuantizedValuesAreTheirOwnQuantization) {
  const Grid<float> once(1, x.cols, all[0]);
  const std::vector<float> scale{symmetric_params(-8.0F, 8.0F, BitWidth(bits)).scale};
  std::vector<float> twice(once.values.size());
  const Matrix<float> out{twice.data(), 1, x.cols};
  fake_quant_symmetric(Exec{}, once.view(), Axis::kTensor, scale, {.width = BitWidth(bits)}, out);
  EXPECT_TRUE(test::same_bits(twice, once.values));

  const AffineParams params = affine_params(-8.0F, 8.0F, BitWidth(bits));
  const std::vector<float> affine_scale{params.scale}, zero{params.zero_point};
  fake_quant_affine(Exec{}, Grid<float>(1, x.cols, all[1]).view(), Axis::kTensor, affine_scale, zero, BitWidth(bits),
                    out);
  EXPECT_TRUE(test::same_bits(twice, all[1]));

  EXPECT_TRUE(test::same_bits(logarithmic(Grid<float>(1, x.cols, all[2]), bits, LogCodebook::kSeed, true), all[2]));
  if (bits > 2) {
    EXPECT_TRUE(test::same_bits(logarithmic(Grid<float>(1, x.cols, all[3]), bits, LogCodebook::kPacked, true), all[3]));
  }
}

TEST_P(FakeQuantAtWidth, ErrorIsAtMostHalfAStep) {
  const double symmetric_scale = 8.0 / BitWidth(bits).q_max(), affine_scale = 16.0 / BitWidth(bits).level_max();
  const AffineParams params = affine_params(-8.0F, 8.0F, BitWidth(bits));
  const double highest = (BitWidth(bits).level_max() - params.zero_point) * static_cast<double>(params.scale);
  for (std::size_t i = 0; i < x.values.size(); ++i) {
    const double value = x.values[i];
    EXPECT_LE(std::abs(all[0][i] - value), symmetric_scale * 0.50001);
    // Rounding the zero-point shifts the grid by up to half a step, and with it the end that saturates.
    EXPECT_LE(std::abs(all[1][i] - std::min(value, highest)), affine_scale * 0.50001);
    if (value != 0.0) {  // half a step between exponents, of a range of 1499 * 0.006
      const double steps = 2.0 * BitWidth(bits).q_max();
      EXPECT_LE(std::abs(std::log2(all[2][i] / value)), 8.994 / steps / 2 * 1.0001);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Bits, FakeQuantAtWidth, ::testing::Values(2, 3, 4, 5, 6, 7, 8));

TEST(FakeQuant, SymmetricEqualsDecodedCodesBitForBit) {
  const Grid<float> x = test::random_grid(37, 300, 21);
  for (int bits = 2; bits <= 8; ++bits)
    for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic})
      for (const CpuIsa isa : {CpuIsa::kPortable, best_cpu_isa()}) {
        const EncodeOptions options{.width = BitWidth(bits), .rounding = rounding, .key = {3, 4}};
        Grid<std::int8_t> codes(37, 300);
        std::vector<float> scales(37);
        Grid<float> decoded(37, 300), y(37, 300);
        encode_rows(Exec{}, x.view(), options, {codes.view(), {}}, scales);
        decode_rows(Exec{}, codes.view(), scales, decoded.view());
        const float q_max = static_cast<float>(options.width.q_max());
        const bool stochastic = rounding == Rounding::kStochastic;
        fake_quant_uniform_cpu(Exec{}, x.view(), Axis::kRow, {scales, {}, -q_max, q_max, stochastic, options.key},
                               y.view(), isa);
        EXPECT_TRUE(test::same_bits(y.values, decoded.values)) << bits << " bits";
      }
}

TEST(FakeQuant, PerColumnEqualsPerRowOfTheTransposed) {
  const Grid<float> x = test::random_grid(130, 270, 22);
  const std::vector<float> scales = test::random_factors(270, 1);
  const std::vector<float> zeros(270, 5.0F), log_mins(270, -6.0F);
  const Grid<float> xt = transposed(x);
  for (const CpuIsa isa : {CpuIsa::kPortable, best_cpu_isa()})
    for (const auto& [zero_points, lo, hi] :
         {std::tuple(std::span<const float>{}, -7.0F, 7.0F), std::tuple(std::span<const float>(zeros), 0.0F, 15.0F)}) {
      Grid<float> cols(130, 270), rows(270, 130);
      const UniformGrid grid{scales, zero_points, lo, hi, /*stochastic=*/false, {}};
      fake_quant_uniform_cpu(Exec{}, x.view(), Axis::kCol, grid, cols.view(), isa);
      fake_quant_uniform_cpu(Exec{}, xt.view(), Axis::kRow, grid, rows.view(), isa);
      EXPECT_TRUE(test::same_bits(transposed(cols).values, rows.values));
    }
  Grid<float> cols(130, 270), rows(270, 130);
  fake_quant_log(Exec{}, x.view(), Axis::kCol, log_mins, scales, BitWidth(4), LogCodebook::kSeed, cols.view());
  fake_quant_log(Exec{}, xt.view(), Axis::kRow, log_mins, scales, BitWidth(4), LogCodebook::kSeed, rows.view());
  EXPECT_TRUE(test::same_bits(transposed(cols).values, rows.values));
}

TEST(FakeQuant, WorksInPlaceAndForAnyCutOfTheWork) {
  const Grid<float> x = test::random_grid(331, 203, 23);
  const std::vector<float> scale{0.37F}, zero{6.0F}, log_min{-7.0F}, range{9.0F};
  const test::ThreadsParallelFor parallel(3);
  const Exec exec{.parallel = &parallel};
  const EncodeOptions stochastic{.width = BitWidth(10), .rounding = Rounding::kStochastic, .key = {1, 1}};
  const auto check = [&](const auto& quantize) {
    Grid<float> alone(331, 203), in_place = x;
    quantize(Exec{}, x.view(), alone.view());
    quantize(exec, in_place.view(), in_place.view());
    EXPECT_TRUE(test::same_bits(in_place.values, alone.values));
    EXPECT_FALSE(test::same_bits(alone.values, x.values));
  };
  check([&](const Exec& e, Matrix<const float> in, Matrix<float> out) {
    fake_quant_symmetric(e, in, Axis::kTensor, scale, stochastic, out);
  });
  check([&](const Exec& e, Matrix<const float> in, Matrix<float> out) {
    fake_quant_affine(e, in, Axis::kTensor, scale, zero, BitWidth(4), out);
  });
  check([&](const Exec& e, Matrix<const float> in, Matrix<float> out) {
    fake_quant_log(e, in, Axis::kTensor, log_min, range, BitWidth(5), LogCodebook::kPacked, out);
  });
}

TEST(FakeQuant, RoundsHalfToEvenUpToEighteenBits) {
  const Grid<float> x(1, 6, {131071.0F, 131070.5F, 65536.5F, 65537.5F, -131070.5F, 200000.0F});
  std::vector<float> y(6);
  const std::vector<float> scale{1.0F};
  fake_quant_symmetric(Exec{}, x.view(), Axis::kTensor, scale, {.width = BitWidth(18)}, {y.data(), 1, 6});
  EXPECT_EQ(y, (std::vector<float>{131071.0F, 131070.0F, 65536.0F, 65538.0F, -131070.0F, 131071.0F}));
}

TEST(FakeQuant, KeepsNaNAndSaturatesInfinities) {
  const Grid<float> x(1, 5, {kNaN, -kNaN, kInfinity, -kInfinity, 0.3F});
  const std::vector<float> one{1.0F}, eight{8.0F}, low{-4.0F}, four{4.0F};
  std::vector<float> y(5);
  const Matrix<float> out{y.data(), 1, 5};
  const auto expect = [&](float high, float low_end, float last) {
    EXPECT_TRUE(test::same_bits(y, std::vector<float>{kNaN, kNaN, high, low_end, last}));
  };
  fake_quant_symmetric(Exec{}, x.view(), Axis::kTensor, one, {.width = BitWidth(4)}, out);
  expect(7.0F, -7.0F, 0.0F);
  fake_quant_affine(Exec{}, x.view(), Axis::kTensor, one, eight, BitWidth(4), out);
  expect(7.0F, -8.0F, 0.0F);
  for (const LogCodebook codebook : {LogCodebook::kSeed, LogCodebook::kPacked}) {
    fake_quant_log(Exec{}, x.view(), Axis::kTensor, low, four, BitWidth(8), codebook, out);
    EXPECT_TRUE(std::isnan(y[0]) && std::isnan(y[1]));
    EXPECT_EQ(y[2], 1.0F);
    EXPECT_EQ(y[3], -1.0F);
  }
  fake_quant_log(Exec{}, x.view(), Axis::kTensor, low, four, BitWidth(2), LogCodebook::kPacked, out);
  EXPECT_TRUE(std::isnan(y[0]));
}

TEST(FakeQuant, ParametersOfARangeThatIsNotFiniteAreNaN) {
  for (const auto& [lo, hi] : {std::pair(kNaN, 1.0F), std::pair(-1.0F, kNaN), std::pair(kNaN, kNaN)}) {
    EXPECT_TRUE(std::isnan(symmetric_params(lo, hi, BitWidth(4)).scale));
    EXPECT_TRUE(std::isnan(affine_params(lo, hi, BitWidth(4)).scale));
    EXPECT_TRUE(std::isnan(affine_params(lo, hi, BitWidth(4)).zero_point));
  }
}

TEST(FakeQuant, ParametersOfAnEmptyRangeUseTheFloor) {
  EXPECT_EQ(symmetric_params(0.0F, 0.0F, BitWidth(3)).scale, kWeightAmaxFloor / 3.0F);
  EXPECT_EQ(affine_params(0.0F, 0.0F, BitWidth(3)).scale, kWeightAmaxFloor / 7.0F);
  EXPECT_EQ(affine_params(0.0F, 0.0F, BitWidth(3)).zero_point, 0.0F);
}

TEST(FakeQuant, AffineZeroPointsAreAlwaysLevels) {
  for (int bits = 2; bits <= 18; ++bits)
    for (const auto& [lo, hi] : {std::pair(-1e-7F, 1e-7F), std::pair(-3.0F, 1e-3F), std::pair(-1e-3F, 3.0F),
                                 std::pair(-5.0F, -4.0F), std::pair(-0.1F, 0.7F)}) {
      const float zero = affine_params(lo, hi, BitWidth(bits)).zero_point;
      EXPECT_EQ(zero, std::nearbyint(zero));
      EXPECT_GE(zero, 0.0F);
      EXPECT_LE(zero, static_cast<float>(BitWidth(bits).level_max()));
    }
}

TEST(FakeQuant, ScalesOfManyRangesAreThoseOfEach) {
  const std::vector<float> lo{-1.0F, 0.0F, -3.0F, kNaN, 0.2F, -1e-9F}, hi{0.5F, 0.0F, 1e-3F, 1.0F, 7.0F, 1e-9F};
  std::vector<float> symmetric(6), scales(6), zeros(6);
  for (const int bits : {2, 4, 8, 18}) {
    symmetric_scales(Exec{}, lo, hi, BitWidth(bits), kWeightAmaxFloor, symmetric);
    affine_scales(Exec{}, lo, hi, BitWidth(bits), scales, zeros);
    for (std::size_t g = 0; g < 6; ++g) {
      const AffineParams want = affine_params(lo[g], hi[g], BitWidth(bits));
      const std::vector<float> got{symmetric[g], scales[g], zeros[g]};
      EXPECT_TRUE(test::same_bits(
          got, std::vector<float>{symmetric_params(lo[g], hi[g], BitWidth(bits)).scale, want.scale, want.zero_point}))
          << "group " << g << ", " << bits << " bits";
    }
  }
  std::vector<float> five(5);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal,
                             [&] { symmetric_scales(Exec{}, lo, hi, BitWidth(4), kWeightAmaxFloor, five); }),
              HasSubstr("5 results for ranges of 6 minima"));
}

TEST(FakeQuant, RefusesWhatItsContractExcludes) {
  const Grid<float> x(3, 5);
  Grid<float> y(3, 5), wrong(5, 3);
  const std::vector<float> one{1.0F}, three(3, 1.0F);
  const auto message = [&](Axis axis, std::span<const float> scales, int bits, Matrix<float> out) {
    return test::error_of(ErrorKind::kInternal, [&] {
      fake_quant_symmetric(Exec{}, x.view(), axis, scales, {.width = BitWidth(bits)}, out);
    });
  };
  EXPECT_THAT(message(Axis::kTensor, three, 4, y.view()), HasSubstr("3 scales for 1 groups"));
  EXPECT_THAT(message(Axis::kCol, three, 4, y.view()), HasSubstr("3 scales for 5 groups"));
  EXPECT_THAT(message(Axis::kTensor, one, 4, wrong.view()), HasSubstr("y is [5, 3] for x of [3, 5]"));
  EXPECT_THAT(message(Axis::kTensor, one, 32, y.view()), HasSubstr("unquantized"));
}

}  // namespace
}  // namespace qat::kernels

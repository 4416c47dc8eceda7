// Encoding, bit for bit: against the formula written plainly, for every mode, width, instruction set and cut of the
// work.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "kernels/quant/encode_cpu.h"
#include "kernels/quant/row_coder.h"
#include "kernels/quant/transpose_bytes.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;

struct Result {
  std::vector<float> scales;
  Grid<std::int8_t> codes;
  Grid<std::int8_t> codes_transposed;
  bool operator==(const Result& other) const {
    return scales == other.scales && codes.values == other.codes.values &&
           codes_transposed.values == other.codes_transposed.values;
  }
};

enum class Mode { kRows, kCols };

// encode.h, line by line.
Result by_the_formula(const Grid<float>& x, const Factors& factors, const EncodeOptions& options, Mode mode) {
  const auto value = [&](std::int64_t r, std::int64_t c) {
    float y = x.at(r, c);
    if (!factors.row_factors.empty()) y = y * factors.row_factors[static_cast<std::size_t>(r)];
    if (!factors.col_factors.empty()) y = y * factors.col_factors[static_cast<std::size_t>(c)];
    return y;
  };
  const float q_max = static_cast<float>(options.width.q_max());
  std::vector<float> scales(static_cast<std::size_t>(mode == Mode::kRows ? x.rows : x.cols), options.amax_floor);
  const auto scale_of = [&](std::int64_t r, std::int64_t c) -> float& {
    return scales[static_cast<std::size_t>(mode == Mode::kRows ? r : c)];
  };
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; ++c) scale_of(r, c) = std::max(scale_of(r, c), std::fabs(value(r, c)));
  for (float& scale : scales) scale = scale / q_max;
  Grid<std::int8_t> codes(x.rows, x.cols);
  for (std::int64_t r = 0; r < x.rows; ++r)
    for (std::int64_t c = 0; c < x.cols; ++c) {
      const float inverse = 1.0F / scale_of(r, c);
      const float v = std::clamp(value(r, c) * inverse, -q_max, q_max);
      double code = std::nearbyint(v);
      if (options.rounding == Rounding::kStochastic)  // in double the sum is exact, or nowhere near a whole number
        code = std::floor(static_cast<double>(v) +
                          rounding_uniform_at(options.key, static_cast<std::uint64_t>(r * x.cols + c)));
      codes.at(r, c) = static_cast<std::int8_t>(code);
    }
  return {scales, codes, transposed(codes)};
}

Result by_the_kernel(const Exec& exec, const Grid<float>& x, const Factors& factors, const EncodeOptions& options,
                     Mode mode, CpuIsa isa) {
  Result result{std::vector<float>(static_cast<std::size_t>(mode == Mode::kRows ? x.rows : x.cols)),
                {x.rows, x.cols},
                {x.cols, x.rows}};
  const EncodeJob job{x.view(), factors, options, {result.codes.view(), result.codes_transposed.view()}};
  mode == Mode::kRows ? encode_rows_cpu(exec, job, result.scales, isa) : encode_cols_cpu(exec, job, result.scales, isa);
  return result;
}

struct Case {
  Mode mode;
  CpuIsa isa;
  Rounding rounding;
};

class EncodeExact : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    if (GetParam().isa == CpuIsa::kAvx2 && best_cpu_isa() != CpuIsa::kAvx2) GTEST_SKIP() << "no AVX2 here";
  }
};

TEST_P(EncodeExact, EqualsTheFormulaForEveryWidthShapeAndFactor) {
  const auto [mode, isa, rounding] = GetParam();
  const std::vector<std::pair<std::int64_t, std::int64_t>> shapes = {{1, 1},   {1, 7},    {3, 17},   {16, 16},
                                                                     {65, 33}, {64, 256}, {70, 300}, {5, 1100}};
  for (const auto& [rows, cols] : shapes) {
    const Grid<float> x = test::random_grid(rows, cols, static_cast<unsigned>(rows * 31 + cols));
    const std::vector<float> row_factors = test::random_factors(rows, 1), col_factors = test::random_factors(cols, 2);
    const std::vector<Factors> all_factors = {{}, {row_factors, {}}, {{}, col_factors}, {row_factors, col_factors}};
    for (int bits = 2; bits <= 8; ++bits)
      for (const Factors& factors : all_factors) {
        const EncodeOptions options{.width = BitWidth(bits), .rounding = rounding, .key = {11, 12}};
        EXPECT_TRUE(by_the_kernel(Exec{}, x, factors, options, mode, isa) == by_the_formula(x, factors, options, mode))
            << rows << " x " << cols << " at " << bits << " bits, factors " << factors.row_factors.size() << ", "
            << factors.col_factors.size();
      }
  }
}

TEST_P(EncodeExact, DoesNotDependOnHowTheWorkIsCut) {
  const auto [mode, isa, rounding] = GetParam();
  const Grid<float> x = test::random_grid(333, 259, 3);
  const EncodeOptions options{.rounding = rounding, .key = {5, 6}};
  const Result alone = by_the_kernel(Exec{}, x, {}, options, mode, isa);
  for (const int threads : {2, 3, 7}) {
    const test::ThreadsParallelFor parallel(threads);
    EXPECT_TRUE(by_the_kernel(Exec{.parallel = &parallel}, x, {}, options, mode, isa) == alone) << threads;
  }
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const Mode mode : {Mode::kRows, Mode::kCols})
    for (const CpuIsa isa : {CpuIsa::kPortable, CpuIsa::kAvx2})
      for (const Rounding rounding : {Rounding::kNearestEven, Rounding::kStochastic})
        cases.push_back({mode, isa, rounding});
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Kernels, EncodeExact, ::testing::ValuesIn(all_cases()), [](const auto& test_case) {
  return std::string(test_case.param.mode == Mode::kRows ? "Rows" : "Cols") +
         (test_case.param.isa == CpuIsa::kAvx2 ? "Avx2" : "Portable") +
         (test_case.param.rounding == Rounding::kStochastic ? "Stochastic" : "Nearest");
});

TEST(EncodeOutputs, EitherCopyAloneEqualsItsPartOfBoth) {
  const Grid<float> x = test::random_grid(130, 77, 8);
  const Result both = by_the_formula(x, {}, {}, Mode::kRows);
  Grid<std::int8_t> codes(130, 77), codes_transposed(77, 130);
  std::vector<float> scales(130);
  encode_rows(Exec{}, x.view(), {}, {codes.view(), {}}, scales);
  EXPECT_EQ(codes.values, both.codes.values);
  encode_rows(Exec{}, x.view(), {}, {{}, codes_transposed.view()}, scales);
  EXPECT_EQ(codes_transposed.values, both.codes_transposed.values);
}

TEST(EncodeOutputs, GivenScalesOfRowsGiveTheCodesOfDynamicOnes) {
  const Grid<float> x = test::random_grid(70, 90, 9);
  const Result dynamic = by_the_formula(x, {}, {.width = BitWidth(5)}, Mode::kRows);
  Grid<std::int8_t> codes(70, 90), codes_transposed(90, 70);
  encode_with_scales(Exec{}, x.view(), dynamic.scales, {.width = BitWidth(5)}, {codes.view(), codes_transposed.view()});
  EXPECT_EQ(codes.values, dynamic.codes.values);
  EXPECT_EQ(codes_transposed.values, dynamic.codes_transposed.values);
}

TEST(Decode, MultipliesCodesByTheirScale) {
  for (const CpuIsa isa : {CpuIsa::kPortable, best_cpu_isa()}) {
    const Grid<std::int8_t> codes = test::random_codes(9, 43, 1);
    const std::vector<float> scales = test::random_factors(9, 2);
    Grid<float> x(9, 43), want(9, 43);
    for (std::int64_t r = 0; r < 9; ++r)
      for (std::int64_t c = 0; c < 43; ++c)
        want.at(r, c) = static_cast<float>(codes.at(r, c)) * scales[static_cast<std::size_t>(r)];
    decode_rows_cpu(Exec{}, codes.view(), scales, x.view(), isa);
    EXPECT_TRUE(test::same_bits(x.values, want.values));
  }
}

TEST(TransposeBytes, SwapsRowsAndColumnsOfAnyShape) {
  for (const std::int64_t rows : {0, 1, 15, 16, 17, 64})
    for (const std::int64_t cols : {0, 1, 16, 31, 48, 255}) {
      const Grid<std::int8_t> in = test::random_codes(rows, cols, 4);
      Grid<std::int8_t> out(cols, rows);
      transpose_bytes(in.values.data(), cols, rows, cols, out.values.data(), rows);
      EXPECT_EQ(out.values, transposed(in).values) << rows << " x " << cols;
    }
}

// A row of one value many times; the 127 in front fixes the scale at 1.
std::vector<std::int8_t> stochastic_codes(float value, std::int64_t n, RngKey key) {
  Grid<float> x(1, n + 1, value);
  x.at(0, 0) = 127.0F;
  Grid<std::int8_t> codes(1, n + 1);
  std::vector<float> scales(1);
  encode_rows(Exec{}, x.view(), {.rounding = Rounding::kStochastic, .key = key}, {codes.view(), {}}, scales);
  EXPECT_EQ(scales[0], 1.0F);
  return {codes.values.begin() + 1, codes.values.end()};
}

TEST(StochasticRounding, GoesUpWithTheProbabilityOfItsFractionAndUsesOnlyTheTwoNeighbours) {
  constexpr std::int64_t kDraws = 1 << 16;
  for (const float value : {0.3F, -0.3F, 0.01F, 5.75F, -126.5F, 126.99F}) {
    double sum = 0.0;
    for (const std::int8_t code : stochastic_codes(value, kDraws, {1, 2})) {
      EXPECT_TRUE(code == std::floor(value) || code == std::ceil(value)) << static_cast<int>(code);
      sum += code;
    }
    // The fraction in whole 256ths, since there are 256 draws: the mean is the value to within half a 256th.
    const double fraction = std::floor(256.0 * (value - std::floor(value)) + 0.5) / 256.0;
    const double standard_error = std::sqrt(fraction * (1.0 - fraction) / kDraws);
    EXPECT_NEAR(sum / kDraws, std::floor(value) + fraction, 5.0 * standard_error);
    EXPECT_NEAR(sum / kDraws, value, 5.0 * standard_error + 0x1p-9);
  }
}

TEST(StochasticRounding, NeverMovesAWholeNumber) {
  for (const float value : {0.0F, 1.0F, 64.0F, -127.0F, 127.0F})
    for (const std::int8_t code : stochastic_codes(value, 1 << 14, {3, 4})) EXPECT_EQ(code, value);
}

TEST(StochasticRounding, IsTheFloorOfTheExactSumWithTheDraw) {
  constexpr float kLeast = 0x1p-9F, kMost = 1.0F - 0x1p-9F;
  const std::vector<float> x{3.0F, 0.5F, 0.5F, -2.25F, -2.25F, 127.0F, -127.0F,
                             // the sum is 1 or 0 but for the last bits, which fp32 would lose
                             kLeast, kLeast - 0x1p-33F, -kLeast, -kLeast - 0x1p-32F, 0x1p-140F, -0x1p-140F};
  const std::vector<float> draws{kMost, 127.5F / 256, 128.5F / 256, 63.5F / 256, 64.5F / 256, kMost, kMost,
                                 kMost, kMost,        kLeast,       kLeast,      kMost,       kLeast};
  const float inverse = 1.0F;
  for (const CpuIsa isa : {CpuIsa::kPortable, best_cpu_isa()}) {
    std::vector<std::int8_t> codes(x.size());
    code_row({x.data(), static_cast<std::int64_t>(x.size()), /*row_factor=*/1.0F, /*col_factors=*/nullptr},
             {&inverse, /*per_column=*/false, draws.data(), /*q_max=*/127.0F}, codes.data(), isa);
    EXPECT_EQ(codes, (std::vector<std::int8_t>{3, 0, 1, -3, -2, 127, -127, 1, 0, 0, -1, 0, 0}));
  }
}

TEST(StochasticRounding, DependsOnSeedAndStream) {
  const auto codes = stochastic_codes(0.5F, 1000, {1, 2});
  EXPECT_EQ(codes, stochastic_codes(0.5F, 1000, {1, 2}));
  EXPECT_NE(codes, stochastic_codes(0.5F, 1000, {2, 2}));
  EXPECT_NE(codes, stochastic_codes(0.5F, 1000, {1, 3}));
}

}  // namespace
}  // namespace qat::kernels

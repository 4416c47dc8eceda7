// Backward of an adapter on a GPU against the CPU. Most data are whole numbers whose sums are exact in fp32 and, as dh,
// in bf16: then both devices must agree bit for bit, whatever the order of their sums.
#include "kernels/gemm/adapter_backward.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <random>

#include "kernels/common/cuda_device.h"
#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

constexpr DType kBf16 = DType::kBFloat16;

struct Shape {
  std::int64_t rows, cols, rank;
};

// Whole numbers from -largest to largest, of which a share is not zero.
Grid<float> whole_numbers(std::int64_t rows, std::int64_t cols, int largest, int one_in, unsigned seed) {
  std::mt19937 generator(seed);
  Grid<float> grid(rows, cols);
  for (float& value : grid.values) {
    const auto drawn = static_cast<std::uint32_t>(generator());
    const int number = static_cast<int>(drawn >> 16) % (2 * largest + 1) - largest;
    value = static_cast<int>(drawn & 0xFFFFU) % one_in == 0 ? static_cast<float>(number) : 0.0F;
  }
  return grid;
}

struct Problem {
  Grid<float> g, b, h;
  std::vector<float> x_scales, a_scales, g_row_scales;
  float scaling = 0.37F;

  explicit Problem(const Shape& s)
      : g(whole_numbers(s.rows, s.cols, 2, 1, 1)),
        b(whole_numbers(s.cols, s.rank, 1, 6, 2)),
        h(whole_numbers(s.rows, s.rank, 3, 1, 3)),
        x_scales(static_cast<std::size_t>(s.rows)),
        a_scales(test::random_factors(s.rank, 5)),
        g_row_scales(test::random_factors(s.rows, 6)) {
    for (std::size_t m = 0; m < x_scales.size(); ++m) x_scales[m] = m % 3 == 0 ? 2.0F : m % 3 == 1 ? 1.0F : 0.5F;
  }
  void round_to_bf16() {
    for (Grid<float>* grid : {&g, &b, &h}) grid->values = test::rounded_to(grid->values, kBf16);
  }
  GradientColumns columns() const { return {{ConstFloatMatrix(g.view()), {}, {}}, 1}; }
};

EncodeOptions options_of(int bits, Rounding rounding, std::uint64_t seed) {
  return {.width = BitWidth(bits), .amax_floor = kGradientAmaxFloor, .rounding = rounding, .key = {seed, 7}};
}
AdapterBackwardOptions options_of(Rounding rounding) {
  return {options_of(8, rounding, 1), options_of(7, rounding, 2), options_of(6, rounding, 3)};
}

// The columns of g: seven bits, in another stream of draws.
EncodeOptions column_options(const AdapterBackwardOptions& options) { return options_of(7, options.rows.rounding, 4); }

struct Gradients {  // on the host
  explicit Gradients(const Problem& p)
      : db(p.g.cols, p.b.cols),
        dx_term(p.g.rows, p.b.cols),
        dh_cols(p.b.cols, p.g.rows),
        g_cols(p.g.cols, p.g.rows),
        dh_col_scales(static_cast<std::size_t>(p.b.cols)),
        g_col_scales(static_cast<std::size_t>(p.g.cols)) {}
  AdapterGradients out() { return {db.view(), dx_term.view(), dh_cols.view(), dh_col_scales}; }

  Grid<float> db, dx_term;
  Grid<std::int8_t> dh_cols, g_cols;
  std::vector<float> dh_col_scales, g_col_scales;
};

// The column codes are those of encode_gradient.
Gradients cpu_gradients(const Problem& p, const AdapterBackwardOptions& options) {
  Gradients result(p);
  const test::ThreadsParallelFor parallel(8);
  adapter_backward(Exec{.parallel = &parallel}, p.columns(),
                   {p.b.view(), p.h.view(), p.x_scales, p.a_scales, p.g_row_scales, p.scaling}, options, result.out());
  encode_gradient(Exec{.parallel = &parallel}, p.columns(), {{}, p.x_scales, {}, column_options(options)},
                  {{}, {}, result.g_cols.view(), result.g_col_scales, {}});
  result.dx_term.values = test::rounded_to(result.dx_term.values, kBf16);
  return result;
}

// g as parts of these widths, each with a gap behind its rows that must not be read.
struct DeviceParts {
  DeviceParts(const Grid<float>& g, const std::vector<std::int64_t>& widths, std::int64_t gap) {
    std::int64_t first = 0;
    for (const std::int64_t width : widths) {
      Grid<float> part(g.rows, width + gap, std::numeric_limits<float>::quiet_NaN());
      for (std::int64_t m = 0; m < g.rows; ++m)
        for (std::int64_t n = 0; n < width; ++n) part.at(m, n) = g.at(m, first + n);
      memory.push_back(std::make_unique<DeviceFloats>(part.values, part.rows, part.cols, kBf16));
      columns.parts[static_cast<std::size_t>(columns.count++)] = {memory.back()->view().data, g.rows, width,
                                                                  width + gap, kBf16};
      first += width;
    }
  }
  std::vector<std::unique_ptr<DeviceFloats>> memory;
  GradientColumns columns;
};

Gradients gpu_gradients(const Problem& p, const DeviceParts& g, const AdapterBackwardOptions& options,
                        bool with_columns = true) {
  const std::int64_t rows = p.g.rows, cols = p.g.cols, rank = p.b.cols;
  const DeviceFloats b(p.b.values, cols, rank, kBf16), h(p.h.values, rows, rank, kBf16), dx_term(rows, rank, kBf16);
  const DeviceBuffer<float> x_scales(p.x_scales), a_scales(p.a_scales), g_row_scales(p.g_row_scales);
  const DeviceBuffer<float> db(cols * rank), dh_col_scales(rank);
  const DeviceBuffer<std::int8_t> dh_cols(rows * rank), g_cols(rows * cols);
  const DeviceBuffer<float> g_col_scales(cols);
  const EncodeOptions column_rounding = column_options(options);
  encode_gradient(test::cuda_exec(), g.columns, {{}, x_scales.span(), {}, column_rounding},
                  {{}, {}, {}, g_col_scales.span(), {}});
  AdapterColumns columns;
  if (with_columns) columns = {column_rounding, g_col_scales.span(), g_cols.matrix(cols, rows)};
  EXPECT_TRUE(takes_adapter_backward(test::cuda_exec(), g.columns, rank));
  adapter_backward(test::cuda_exec(), g.columns,
                   {b.view(), h.view(), x_scales.span(), a_scales.span(), g_row_scales.span(), p.scaling}, options,
                   {db.matrix(cols, rank), dx_term.view(), dh_cols.matrix(rank, rows), dh_col_scales.span()}, columns);
  Gradients result(p);
  result.db.values = db.download();
  result.dx_term.values = dx_term.download();
  result.dh_cols.values = dh_cols.download();
  result.dh_col_scales = dh_col_scales.download();
  result.g_cols.values = g_cols.download();
  result.g_col_scales = g_col_scales.download();
  return result;
}

void expect_equal(const Gradients& got, const Gradients& want, bool with_columns = true) {
  EXPECT_TRUE(test::same_bits(got.db.values, want.db.values)) << "db";
  EXPECT_TRUE(test::same_bits(got.dx_term.values, want.dx_term.values)) << "dx_term";
  EXPECT_TRUE(test::same_bits(got.dh_col_scales, want.dh_col_scales)) << "column scales";
  EXPECT_EQ(got.dh_cols.values, want.dh_cols.values) << "column codes";
  EXPECT_TRUE(test::same_bits(got.g_col_scales, want.g_col_scales)) << "column scales of g";
  const std::vector<std::int8_t> untouched(got.g_cols.values.size(), -1);  // as DeviceBuffer leaves it
  const std::vector<std::int8_t>& codes = with_columns ? want.g_cols.values : untouched;
  const auto wrong = std::mismatch(codes.begin(), codes.end(), got.g_cols.values.begin()).first - codes.begin();
  EXPECT_EQ(wrong, static_cast<std::int64_t>(codes.size()))
      << "codes of g: column " << wrong / got.g_cols.cols << ", row " << wrong % got.g_cols.cols;
}

class AdapterBackwardCuda : public ::testing::TestWithParam<Rounding> {
 protected:
  void SetUp() override {
    if (cuda_device_info(0).major != 9) GTEST_SKIP() << "needs sm_90";
  }
  void compare(const Shape& s, const std::vector<std::int64_t>& widths, std::int64_t gap) const {
    SCOPED_TRACE(std::to_string(s.rows) + " x " + std::to_string(s.cols) + ", rank " + std::to_string(s.rank));
    const Problem p(s);
    const AdapterBackwardOptions options = options_of(GetParam());
    expect_equal(gpu_gradients(p, DeviceParts(p.g, widths, gap), options), cpu_gradients(p, options));
  }
};

TEST_P(AdapterBackwardCuda, EqualsTheCpuForEveryRank) {
  for (const std::int64_t rank : {8, 16, 24, 32, 40, 48, 56, 64}) compare({700, 328, rank}, {328}, 0);
}

TEST_P(AdapterBackwardCuda, EqualsTheCpuForOddShapes) {
  for (const Shape& s : {Shape{1, 8, 16}, Shape{3, 64, 8}, Shape{127, 72, 16}, Shape{128, 128, 64}, Shape{512, 136, 32},
                         Shape{513, 1600, 16}, Shape{1025, 768, 64}, Shape{65, 4800, 16}})
    compare(s, {s.cols}, 0);
}

// Whole groups of 16 rows and columns are coded in the same read; the shapes above have others.
TEST_P(AdapterBackwardCuda, CodesTheColumnsOfGInTheSameRead) {
  for (const Shape& s : {Shape{16, 16, 16}, Shape{128, 128, 8}, Shape{512, 256, 32}, Shape{528, 272, 24},
                         Shape{1040, 784, 16}, Shape{112, 2304, 16}, Shape{640, 144, 64}})
    compare(s, {s.cols}, 0);
  compare({592, 592, 16}, {144, 16, 432}, 16);
}

TEST_P(AdapterBackwardCuda, LeavesTheColumnsOfGAloneUnlessTheyAreWanted) {
  const Problem p({528, 272, 16});
  const AdapterBackwardOptions options = options_of(GetParam());
  expect_equal(gpu_gradients(p, DeviceParts(p.g, {272}, 0), options, false), cpu_gradients(p, options), false);
}

TEST_P(AdapterBackwardCuda, TakesPartsWithGaps) {
  compare({600, 2304, 16}, {768, 768, 768}, 0);
  compare({600, 264, 16}, {64, 128, 72}, 16);
  compare({130, 208, 64}, {8, 200}, 8);
}

TEST_P(AdapterBackwardCuda, TreatsWhatIsNotFiniteAsTheCpuDoes) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
    for (const Shape& s : {Shape{600, 264, 16}, Shape{608, 272, 16}}) {
      Problem p(s);
      p.g.at(7, 11) = bad;
      p.g.at(s.rows - 1, s.cols - 1) = bad;
      for (std::int64_t n = 0; n < p.g.cols; ++n) p.g.at(2, n) = 0.0F;
      const AdapterBackwardOptions options = options_of(GetParam());
      expect_equal(gpu_gradients(p, DeviceParts(p.g, {s.cols}, 0), options), cpu_gradients(p, options));
    }
}

INSTANTIATE_TEST_SUITE_P(Roundings, AdapterBackwardCuda,
                         ::testing::Values(Rounding::kNearestEven, Rounding::kStochastic), [](const auto& rounding) {
                           return rounding.param == Rounding::kStochastic ? "Stochastic" : "NearestEven";
                         });

class AdapterBackwardFloatsCuda : public AdapterBackwardCuda {};

TEST_P(AdapterBackwardFloatsCuda, LeavesDbUnroundedAtFullWidth) {
  Problem p({3000, 520, 16});
  AdapterBackwardOptions options = options_of(GetParam());
  options.db.width = BitWidth::full();
  expect_equal(gpu_gradients(p, DeviceParts(p.g, {520}, 0), options), cpu_gradients(p, options));
  // Any numbers: the sums of exact products, to their rounding.
  p.g = test::random_grid(3000, 520, 8);
  p.h = test::random_grid(3000, 16, 9);
  p.round_to_bf16();
  const Grid<float> got = gpu_gradients(p, DeviceParts(p.g, {520}, 0), options).db;
  for (std::int64_t n = 0; n < p.g.cols; n += 7)
    for (std::int64_t j = 0; j < 16; ++j) {
      double want = 0.0, magnitude = 0.0;
      for (std::int64_t m = 0; m < p.g.rows; ++m) {
        const double term = p.scaling * p.g.at(m, n) * p.h.at(m, j) * p.x_scales[static_cast<std::size_t>(m)];
        want += term;
        magnitude += std::fabs(term);
      }
      ASSERT_NEAR(got.at(n, j), want, magnitude * 1e-5) << "db of " << n << ", " << j;
    }
}

// Several tiles a block: there are more tiles than multiprocessors.
TEST_P(AdapterBackwardFloatsCuda, SumsOverManyTilesAndParts) {
  compare({8300, 2304, 16}, {768, 776, 760}, 8);
  compare({33808, 640, 8}, {144, 496}, 0);
}

// One product a sum: what is left is the rounding of h with its scales, and of dh.
TEST_P(AdapterBackwardFloatsCuda, RoundsTheScaledHAndDhToBf16Once) {
  Problem p({1, 8, 64});
  p.g = Grid<float>(1, 8);
  p.g.at(0, 5) = 1.0078125F;  // 1 + 2^-7: products with it do not fit bf16
  p.b = test::random_grid(8, 64, 4);
  p.h = test::random_grid(1, 64, 5);
  p.x_scales = {0.7F};
  p.round_to_bf16();
  AdapterBackwardOptions options = options_of(GetParam());
  options.db.width = BitWidth::full();
  const Gradients got = gpu_gradients(p, DeviceParts(p.g, {8}, 0), options);
  Grid<float> dh(1, 64);
  for (std::int64_t j = 0; j < 64; ++j) {
    const float scaled_h = test::rounded_to(p.h.at(0, j) * 0.7F, kBf16);
    EXPECT_EQ(got.db.at(5, j), p.g.at(0, 5) * scaled_h * p.scaling) << "column " << j;
    EXPECT_EQ(got.db.at(4, j), 0.0F) << "column " << j;
    dh.at(0, j) = test::rounded_to(p.g.at(0, 5) * p.b.at(5, j), kBf16);
  }
  Grid<std::int8_t> codes(1, 64), cols(64, 1);
  std::vector<float> scale(1), col_scales(64);
  encode_gradient(Exec{}, {{ConstFloatMatrix(dh.view()), {}, {}}, 1},
                  {p.a_scales, p.x_scales, options.rows, options.cols},
                  {codes.view(), scale, cols.view(), col_scales, {}});
  EXPECT_TRUE(test::same_bits(got.dh_col_scales, col_scales));
  EXPECT_EQ(got.dh_cols.values, cols.values);
  for (std::int64_t j = 0; j < 64; ++j)
    EXPECT_EQ(got.dx_term.at(0, j), test::rounded_to(codes.at(0, j) * (scale[0] / p.g_row_scales[0]), kBf16));
}

TEST_P(AdapterBackwardFloatsCuda, GivesTheSameBitsEveryTime) {
  Problem p({3008, 784, 16});
  p.g = test::random_grid(3008, 784, 8);
  p.b = test::random_grid(784, 16, 9);
  p.h = test::random_grid(3008, 16, 10);
  p.x_scales = test::random_factors(3008, 11);
  p.round_to_bf16();
  const DeviceParts g(p.g, {784}, 0);
  const Gradients first = gpu_gradients(p, g, options_of(GetParam()));
  EXPECT_EQ(first.g_cols.values, cpu_gradients(p, options_of(GetParam())).g_cols.values);
  for (int run = 0; run < 3; ++run) expect_equal(gpu_gradients(p, g, options_of(GetParam())), first);
}

TEST_P(AdapterBackwardFloatsCuda, RefusesWhatHasNoKernel) {
  const DeviceFloats memory(64, 256, kBf16);
  const auto takes = [&](std::int64_t cols, std::int64_t stride, std::int64_t offset, std::int64_t rank) {
    const auto* data = static_cast<const std::uint16_t*>(memory.view().data) + offset;
    return takes_adapter_backward(test::cuda_exec(), {{{{data, 64, cols, stride, kBf16}, {}, {}}}, 1}, rank);
  };
  EXPECT_TRUE(takes(128, 256, 8, 64));
  EXPECT_FALSE(takes(100, 256, 0, 16));
  EXPECT_FALSE(takes(128, 250, 0, 16));
  EXPECT_FALSE(takes(128, 256, 1, 16));
  EXPECT_FALSE(takes(128, 256, 0, 12));
  EXPECT_FALSE(takes(128, 256, 0, 72));
}

INSTANTIATE_TEST_SUITE_P(Stochastic, AdapterBackwardFloatsCuda, ::testing::Values(Rounding::kStochastic),
                         [](const auto& /*rounding*/) { return "Stochastic"; });

}  // namespace
}  // namespace qat::kernels

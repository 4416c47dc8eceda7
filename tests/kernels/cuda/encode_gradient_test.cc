// The gradient's codes on a GPU against the CPU: codes and scales bit for bit, sums to rounding.
#include "kernels/quant/encode_gradient.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

using Shape = std::pair<std::int64_t, std::int64_t>;

struct Wanted {
  bool rows = true, cols = true, sums = true, col_codes = true;  // without col_codes: the columns' scales alone
};

// Memory for the results, on the CPU and on the GPU (poisoned).
struct Results {
  Results(std::int64_t rows, std::int64_t cols)
      : row_codes(rows, cols),
        cols_transposed(cols, rows),
        row_scales(static_cast<std::size_t>(rows)),
        col_scales(static_cast<std::size_t>(cols)),
        sums(static_cast<std::size_t>(cols)),
        device_row_codes(rows * cols),
        device_cols_transposed(rows * cols),
        device_row_scales(rows),
        device_col_scales(cols),
        device_sums(cols) {}

  GradientCodes host(const Wanted& wanted) {
    GradientCodes out;
    if (wanted.rows) out.rows = row_codes.view(), out.row_scales = row_scales;
    if (wanted.cols) out.col_scales = col_scales;
    if (wanted.cols && wanted.col_codes) out.cols_transposed = cols_transposed.view();
    if (wanted.sums) out.column_sums = sums;
    return out;
  }
  GradientCodes device(const Wanted& wanted) const {
    const std::int64_t rows = row_codes.rows, cols = row_codes.cols;
    GradientCodes out;
    if (wanted.rows) out.rows = device_row_codes.matrix(rows, cols), out.row_scales = device_row_scales.span();
    if (wanted.cols) out.col_scales = device_col_scales.span();
    if (wanted.cols && wanted.col_codes) out.cols_transposed = device_cols_transposed.matrix(cols, rows);
    if (wanted.sums) out.column_sums = device_sums.span();
    return out;
  }

  static void expect_codes(const char* name, const std::vector<std::int8_t>& got, const Grid<std::int8_t>& want) {
    const auto [a, b] = std::mismatch(want.values.begin(), want.values.end(), got.begin());
    if (a == want.values.end()) return;
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < got.size(); ++i) wrong += got[i] != want.values[i] ? 1 : 0;
    const auto at = static_cast<std::int64_t>(a - want.values.begin());
    ADD_FAILURE() << name << ": " << wrong << " of " << got.size() << " codes differ, first at [" << at / want.cols
                  << ", " << at % want.cols << "]: " << static_cast<int>(*b) << " instead of " << static_cast<int>(*a);
  }
  // g: what was summed, as the CPU saw it.
  void compare(const Grid<float>& g, const Wanted& wanted) const {
    if (wanted.rows) {
      EXPECT_TRUE(test::same_bits(device_row_scales.download(), row_scales)) << "row scales";
      expect_codes("rows", device_row_codes.download(), row_codes);
    }
    if (wanted.cols) {
      EXPECT_TRUE(test::same_bits(device_col_scales.download(), col_scales)) << "column scales";
      if (wanted.col_codes) expect_codes("transposed columns", device_cols_transposed.download(), cols_transposed);
    }
    if (!wanted.sums) return;
    const std::vector<float> got = device_sums.download();
    for (std::int64_t c = 0; c < g.cols; ++c) {
      double want = 0.0, magnitude = 0.0;
      for (std::int64_t r = 0; r < g.rows; ++r) {
        want += g.at(r, c);
        magnitude += std::fabs(g.at(r, c));
      }
      if (std::isfinite(want)) {
        EXPECT_NEAR(got[static_cast<std::size_t>(c)], want, magnitude * 1e-5) << "sum of column " << c;
      } else {
        EXPECT_FALSE(std::isfinite(got[static_cast<std::size_t>(c)])) << "sum of column " << c;
      }
    }
  }

  Grid<std::int8_t> row_codes, cols_transposed;
  std::vector<float> row_scales, col_scales, sums;
  DeviceBuffer<std::int8_t> device_row_codes, device_cols_transposed;
  DeviceBuffer<float> device_row_scales, device_col_scales, device_sums;
};

struct Encoding {  // factors on both devices
  Encoding(std::int64_t rows, std::int64_t cols, Rounding rounding)
      : col_factors(test::random_factors(cols, 1)),
        row_factors(test::random_factors(rows, 2)),
        device_col_factors(col_factors),
        device_row_factors(row_factors) {
    const EncodeOptions rows_to{.amax_floor = kGradientAmaxFloor, .rounding = rounding, .key = {1, 2}};
    const EncodeOptions cols_to{
        .width = BitWidth(7), .amax_floor = kGradientAmaxFloor, .rounding = rounding, .key = {3, 4}};
    host = {col_factors, row_factors, rows_to, cols_to};
    device = {device_col_factors.span(), device_row_factors.span(), rows_to, cols_to};
  }
  std::vector<float> col_factors, row_factors;
  DeviceBuffer<float> device_col_factors, device_row_factors;
  GradientEncoding host, device;
};

GradientColumns columns_of(const ConstFloatMatrix& g) { return {{g, {}, {}}, 1}; }

struct Case {
  DType dtype;
  Rounding rounding;
};

class EncodeGradientCuda : public ::testing::TestWithParam<Case> {
 protected:
  Grid<float> data(std::int64_t rows, std::int64_t cols, unsigned seed = 9) const {
    const Grid<float> x = test::random_grid(rows, cols, seed);
    return {rows, cols, test::rounded_to(x.values, GetParam().dtype)};
  }
  void compare(const Grid<float>& g, const Wanted& wanted = {}) const {
    SCOPED_TRACE(std::to_string(g.rows) + " x " + std::to_string(g.cols) + ", wanted " + std::to_string(wanted.rows) +
                 std::to_string(wanted.cols) + std::to_string(wanted.sums));
    const Encoding encoding(g.rows, g.cols, GetParam().rounding);
    Results results(g.rows, g.cols);
    encode_gradient(Exec{}, columns_of(g.view()), encoding.host, results.host(wanted));
    const DeviceFloats device_g(g.values, g.rows, g.cols, GetParam().dtype);
    encode_gradient(test::cuda_exec(), columns_of(device_g.view()), encoding.device, results.device(wanted));
    results.compare(g, wanted);
  }
};

TEST_P(EncodeGradientCuda, EqualsTheCpuForShapesOfEveryPath) {
  for (const auto& [rows, cols] :
       {Shape(1, 1), Shape(3, 5), Shape(33, 17), Shape(16, 8), Shape(1040, 16), Shape(3000, 64), Shape(100, 32),
        Shape(64, 768), Shape(130, 2304), Shape(1040, 3072), Shape(272, 4800), Shape(48, 6400), Shape(32, 8000),
        Shape(2000, 256), Shape(4096, 1600), Shape(10700, 528), Shape(300, 1032), Shape(64, 8200)})
    compare(data(rows, cols));
}

TEST_P(EncodeGradientCuda, LeavesOutWhatIsNotWanted) {
  for (const auto& [rows, cols] : {Shape(160, 776), Shape(33, 17)})
    for (const bool with_rows : {false, true})
      for (const bool with_cols : {false, true})
        for (const bool with_sums : {false, true}) compare(data(rows, cols), {with_rows, with_cols, with_sums});
  for (const auto& [rows, cols] : {Shape(160, 776), Shape(33, 17), Shape(144, 16)})
    for (const bool with_rows : {false, true}) compare(data(rows, cols), {with_rows, true, false, false});
}

TEST_P(EncodeGradientCuda, TreatsWhatIsNotFiniteAsTheCpuDoes) {
  for (const auto& [rows, cols] : {Shape(160, 264), Shape(33, 17)})
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      Grid<float> g = data(rows, cols);
      g.at(7, 11) = bad;
      g.at(rows - 1, 0) = bad;
      for (std::int64_t c = 0; c < cols; ++c) g.at(2, c) = 0.0F;
      compare(g);
    }
}

TEST_P(EncodeGradientCuda, WithoutFactorsTheyAreOnes) {
  const Grid<float> g = data(144, 520);
  Results results(144, 520);
  const EncodeOptions options{.rounding = GetParam().rounding, .key = {8, 9}};
  encode_gradient(Exec{}, columns_of(g.view()), {{}, {}, options, options}, results.host({}));
  const DeviceFloats device_g(g.values, g.rows, g.cols, GetParam().dtype);
  encode_gradient(test::cuda_exec(), columns_of(device_g.view()), {{}, {}, options, options}, results.device({}));
  results.compare(g, {});
}

TEST_P(EncodeGradientCuda, TakesPartsWithGaps) {
  struct Layout {
    std::int64_t rows, widths[3], gap;
  };
  for (const Layout& layout :
       {Layout{160, {64, 128, 72}, 16}, Layout{96, {768, 768, 768}, 0}, Layout{35, {5, 20, 9}, 3}}) {
    const std::int64_t cols = layout.widths[0] + layout.widths[1] + layout.widths[2];
    SCOPED_TRACE(std::to_string(layout.rows) + " rows of " + std::to_string(cols));
    const Grid<float> g = data(layout.rows, cols);
    const Encoding encoding(layout.rows, cols, GetParam().rounding);
    Results results(layout.rows, cols);
    encode_gradient(Exec{}, columns_of(g.view()), encoding.host, results.host({}));
    std::vector<std::unique_ptr<DeviceFloats>> memory;
    GradientColumns parts;
    std::int64_t first = 0;
    for (const std::int64_t width : layout.widths) {
      const std::int64_t stride = width + layout.gap;
      std::vector<float> values(static_cast<std::size_t>(layout.rows * stride), NAN);  // gaps are not to be read
      for (std::int64_t r = 0; r < layout.rows; ++r)
        for (std::int64_t c = 0; c < width; ++c) values[static_cast<std::size_t>(r * stride + c)] = g.at(r, first + c);
      memory.push_back(std::make_unique<DeviceFloats>(values, layout.rows, stride, GetParam().dtype));
      parts.parts[static_cast<std::size_t>(parts.count++)] = {memory.back()->view().data, layout.rows, width, stride,
                                                              GetParam().dtype};
      first += width;
    }
    encode_gradient(test::cuda_exec(), parts, encoding.device, results.device({}));
    results.compare(g, {});
    column_sums(test::cuda_exec(), parts, results.device_sums.span());
    results.compare(g, {false, false, true});
  }
}

TEST_P(EncodeGradientCuda, GivesTheSameBitsEveryTime) {
  const Grid<float> g = data(3000, 768);
  const DeviceFloats device_g(g.values, g.rows, g.cols, GetParam().dtype);
  const Encoding encoding(g.rows, g.cols, GetParam().rounding);
  std::vector<float> first;
  for (int run = 0; run < 3; ++run) {
    const Results results(g.rows, g.cols);
    encode_gradient(test::cuda_exec(), columns_of(device_g.view()), encoding.device, results.device({}));
    const std::vector<float> sums = results.device_sums.download();
    if (run == 0) first = sums;
    EXPECT_TRUE(test::same_bits(sums, first)) << "run " << run;
  }
}

TEST_P(EncodeGradientCuda, OfGeluCodesTheGradientThatItStores) {
  for (const auto& [rows, cols] : {Shape(1, 1), Shape(33, 17), Shape(160, 776), Shape(528, 3072), Shape(64, 6400),
                                   Shape(32, 8000), Shape(32, 8200)})
    for (const bool in_place : {false, true}) {
      SCOPED_TRACE(std::to_string(rows) + " x " + std::to_string(cols) + (in_place ? " in place" : ""));
      const Grid<float> dy = data(rows, cols, 20), x = data(rows, cols, 21);
      const Encoding encoding(rows, cols, GetParam().rounding);
      const DeviceFloats device_dy(dy.values, rows, cols, GetParam().dtype);
      const DeviceFloats device_x(x.values, rows, cols, GetParam().dtype), apart(rows, cols, GetParam().dtype);
      const FloatMatrix device_g = in_place ? device_dy.view() : apart.view();
      Results results(rows, cols);
      encode_gelu_gradient(test::cuda_exec(), device_dy.view(), device_x.view(), device_g, encoding.device,
                           results.device({}));
      const Grid<float> stored(rows, cols, (in_place ? device_dy : apart).download());

      Grid<float> want(rows, cols);
      encode_gelu_gradient(Exec{}, dy.view(), x.view(), want.view(), {}, {});
      const double unit = GetParam().dtype == DType::kBFloat16 ? 0x1p-8 : 1e-6;  // one rounding of the stored value
      std::int64_t wrong = 0;
      for (std::size_t i = 0; i < want.values.size(); ++i) {
        const double error = std::fabs(static_cast<double>(stored.values[i]) - want.values[i]);
        const double allowed =
            unit * std::fabs(want.values[i]) + 1e-6 * std::fabs(dy.values[i]) * (1 + std::fabs(x.values[i]));
        if (!(error <= allowed) && wrong++ == 0)
          ADD_FAILURE() << "g is " << stored.values[i] << " instead of " << want.values[i] << " for dy " << dy.values[i]
                        << ", x " << x.values[i];
      }
      EXPECT_EQ(wrong, 0);
      encode_gradient(Exec{}, columns_of(stored.view()), encoding.host, results.host({}));
      results.compare(stored, {});
    }
}

TEST_P(EncodeGradientCuda, OfGeluLeavesOutWhatIsNotWanted) {
  const Grid<float> dy = data(160, 264, 20), x = data(160, 264, 21);
  const Encoding encoding(160, 264, GetParam().rounding);
  for (const Wanted& wanted : {Wanted{true, false, false}, Wanted{false, true, false}, Wanted{false, false, true},
                               Wanted{false, false, false}, Wanted{true, true, false, false}}) {
    const DeviceFloats device_dy(dy.values, 160, 264, GetParam().dtype), device_x(x.values, 160, 264, GetParam().dtype);
    const DeviceFloats device_g(160, 264, GetParam().dtype);
    Results results(160, 264);
    encode_gelu_gradient(test::cuda_exec(), device_dy.view(), device_x.view(), device_g.view(), encoding.device,
                         results.device(wanted));
    const Grid<float> stored(160, 264, device_g.download());
    encode_gradient(Exec{}, columns_of(stored.view()), encoding.host, results.host(wanted));
    results.compare(stored, wanted);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, EncodeGradientCuda,
                         ::testing::Values(Case{DType::kFloat32, Rounding::kNearestEven},
                                           Case{DType::kFloat32, Rounding::kStochastic},
                                           Case{DType::kBFloat16, Rounding::kNearestEven},
                                           Case{DType::kBFloat16, Rounding::kStochastic}),
                         [](const auto& test_case) {
                           return std::string(test_case.param.dtype == DType::kBFloat16 ? "Bf16" : "Fp32") +
                                  (test_case.param.rounding == Rounding::kStochastic ? "Stochastic" : "Nearest");
                         });

}  // namespace
}  // namespace qat::kernels

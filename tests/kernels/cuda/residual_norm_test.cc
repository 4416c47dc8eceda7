#include "kernels/norm/residual_norm.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::DeviceFloats;
using test::Grid;

struct Shape {
  std::int64_t rows, cols;
};

// Narrow, odd, every number of vectors a lane and warps a row, ragged tiles, rows that 16 does not divide, too wide.
constexpr Shape kShapes[] = {{1, 1},       {3, 5},     {33, 17},  {16, 8},    {64, 768},   {130, 2304},
                             {16896, 768}, {77, 264},  {48, 512}, {96, 640},  {100, 1024}, {33, 1600},
                             {40, 2048},   {17, 4096}, {5, 8200}, {2, 50000}, {16900, 64}, {16912, 136}};

class ResidualNormCuda : public ::testing::TestWithParam<std::tuple<Shape, DType>> {};

// |got - want| <= absolute + relative |want|, with a step of the dtype where rounding may go either way.
void expect_close(const std::vector<float>& got, const std::vector<float>& want, DType dtype, float tolerance,
                  const char* name) {
  ASSERT_EQ(got.size(), want.size());
  const float relative = dtype == DType::kBFloat16 ? 1.0F / 128 : tolerance;
  int failures = 0;
  for (std::size_t i = 0; i < got.size() && failures < 5; ++i) {
    if (std::abs(got[i] - want[i]) <= tolerance + relative * std::abs(want[i])) continue;
    ++failures;
    ADD_FAILURE() << name << "[" << i << "] is " << got[i] << " instead of " << want[i];
  }
}

struct Inputs {
  Grid<float> x, delta, dy, past;
  std::vector<float> weight, bias;

  Inputs(Shape shape, DType dtype)
      : x(make(shape, 1, dtype)),
        delta(make(shape, 2, dtype)),
        dy(make(shape, 3, dtype)),
        past(make(shape, 4, dtype)),
        weight(test::random_factors(shape.cols, 5)),
        bias(test::random_factors(shape.cols, 6)) {}
  static Grid<float> make(Shape shape, unsigned seed, DType dtype) {
    Grid<float> grid = test::random_grid(shape.rows, shape.cols, seed);
    grid.values = test::rounded_to(grid.values, dtype);
    return grid;
  }
};

TEST_P(ResidualNormCuda, ForwardAgreesWithTheCpuAndItsCodesWithItsNorm) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols] = shape;
  const Inputs in(shape, dtype);
  const DeviceFloats x(in.x.values, rows, cols, dtype);
  const DeviceFloats delta(in.delta.values, rows, cols, dtype);
  const DeviceBuffer<float> weight(in.weight), bias(in.bias);
  for (const bool with_delta : {true, false}) {
    SCOPED_TRACE(with_delta ? "with delta" : "without delta");
    const DeviceFloats residual(rows, cols, dtype), normed(rows, cols, dtype);
    const DeviceBuffer<std::int8_t> codes(rows * cols), transposed(rows * cols);
    const DeviceBuffer<float> scales(rows), mean(rows), rstd(rows);
    residual_norm(test::cuda_exec(), x.view(), with_delta ? ConstFloatMatrix(delta.view()) : ConstFloatMatrix(),
                  {weight.span(), bias.span()}, {.width = BitWidth(7)},
                  {residual.view(),
                   normed.view(),
                   {codes.matrix(rows, cols), transposed.matrix(cols, rows)},
                   scales.span(),
                   mean.span(),
                   rstd.span()});

    Grid<float> want_residual(rows, cols), want_normed(rows, cols);
    std::vector<float> want_mean(static_cast<std::size_t>(rows)), want_rstd(want_mean);
    for (std::size_t i = 0; i < in.x.values.size(); ++i)
      want_residual.values[i] =
          test::rounded_to(with_delta ? in.x.values[i] + in.delta.values[i] : in.x.values[i], dtype);
    residual_norm({}, want_residual.view(), {}, {in.weight, in.bias}, {},
                  {{}, want_normed.view(), {}, {}, want_mean, want_rstd});
    EXPECT_TRUE(test::same_bits(residual.download(), want_residual.values));
    expect_close(mean.download(), want_mean, DType::kFloat32, 2e-5F, "mean");
    // 1x1: the variance is zero up to the rounding of the mean.
    expect_close(rstd.download(), want_rstd, DType::kFloat32, 1e-4F, "rstd");
    const Grid<float> got_normed(rows, cols, normed.download());
    expect_close(got_normed.values, want_normed.values, dtype, 1e-4F, "normed");

    Grid<std::int8_t> want_codes(rows, cols), want_transposed(cols, rows);
    std::vector<float> want_scales(static_cast<std::size_t>(rows));
    encode_rows({}, got_normed.view(), {.width = BitWidth(7)}, {want_codes.view(), want_transposed.view()},
                want_scales);
    EXPECT_TRUE(test::same_bits(scales.download(), want_scales));
    EXPECT_TRUE(codes.download() == want_codes.values) << "codes are not those of the norm";
    EXPECT_TRUE(transposed.download() == want_transposed.values) << "transposed codes are not those of the norm";
  }
}

TEST_P(ResidualNormCuda, EveryOutputIsTheSameWhenItIsWantedAlone) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols] = shape;
  const Inputs in(shape, dtype);
  const DeviceFloats x(in.x.values, rows, cols, dtype);
  const DeviceBuffer<float> weight(in.weight), bias(in.bias), scales(rows), scales2(rows), scales3(rows), mean(rows),
      rstd(rows);
  const DeviceFloats normed(rows, cols, dtype), alone(rows, cols, dtype);
  const DeviceBuffer<std::int8_t> codes(rows * cols), transposed(rows * cols), codes2(rows * cols),
      transposed2(rows * cols);
  const auto norm = [&](const FloatMatrix& y, const CodesOut& out, std::span<float> to_scales) {
    residual_norm(test::cuda_exec(), x.view(), {}, {weight.span(), bias.span()}, {},
                  {{}, y, out, to_scales, mean.span(), rstd.span()});
  };
  norm(normed.view(), {codes.matrix(rows, cols), transposed.matrix(cols, rows)}, scales.span());
  norm(alone.view(), {}, {});
  norm({}, {codes2.matrix(rows, cols), {}}, scales2.span());
  norm({}, {{}, transposed2.matrix(cols, rows)}, scales3.span());
  EXPECT_TRUE(test::same_bits(alone.download(), normed.download()));
  EXPECT_TRUE(codes2.download() == codes.download());
  EXPECT_TRUE(transposed2.download() == transposed.download());
  EXPECT_TRUE(test::same_bits(scales2.download(), scales.download()));
  EXPECT_TRUE(test::same_bits(scales3.download(), scales.download()));
}

TEST_P(ResidualNormCuda, BackwardAgreesWithTheCpuAndRepeats) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols] = shape;
  const Inputs in(shape, dtype);
  std::vector<float> mean(static_cast<std::size_t>(rows)), rstd(mean);
  Grid<float> y(rows, cols), want(rows, cols);
  residual_norm({}, in.x.view(), {}, {in.weight, in.bias}, {}, {{}, y.view(), {}, {}, mean, rstd});
  std::vector<float> want_dweight(static_cast<std::size_t>(cols)), want_dbias(want_dweight);
  const DeviceFloats dy(in.dy.values, rows, cols, dtype), residual(in.x.values, rows, cols, dtype);
  const DeviceBuffer<float> weight(in.weight), device_mean(mean), device_rstd(rstd);
  const ResidualNormSaved saved{residual.view(), device_mean.span(), device_rstd.span(), weight.span()};
  for (const bool with_past : {true, false}) {
    SCOPED_TRACE(with_past ? "in place" : "without dresidual_in");
    residual_norm_backward({}, in.dy.view(), {in.x.view(), mean, rstd, in.weight},
                           with_past ? ConstFloatMatrix(in.past.view()) : ConstFloatMatrix(), want.view(), want_dweight,
                           want_dbias);
    std::vector<float> first;
    for (int time = 0; time < 2; ++time) {
      const DeviceFloats past(in.past.values, rows, cols, dtype), apart(rows, cols, dtype);
      const DeviceBuffer<float> dweight(cols), dbias(cols);
      const FloatMatrix dx = with_past ? past.view() : apart.view();
      residual_norm_backward(test::cuda_exec(), dy.view(), saved, with_past ? ConstFloatMatrix(dx) : ConstFloatMatrix(),
                             dx, dweight.span(), dbias.span());
      const std::vector<float> got_dweight = dweight.download();
      if (time == 1) {
        EXPECT_TRUE(test::same_bits(got_dweight, first)) << "not repeatable";
        continue;
      }
      first = got_dweight;
      expect_close((with_past ? past : apart).download(), want.values, dtype, 2e-3F, "dx");
      // A sum's error grows with its terms, not with what is left of them.
      const float sum_tolerance = 1e-5F * std::sqrt(static_cast<float>(rows)) * 40.0F;
      expect_close(got_dweight, want_dweight, DType::kFloat32, sum_tolerance, "dweight");
      expect_close(dbias.download(), want_dbias, DType::kFloat32, sum_tolerance, "dbias");
    }
    const DeviceFloats past(in.past.values, rows, cols, dtype), only(rows, cols, dtype);
    residual_norm_backward(test::cuda_exec(), dy.view(), saved,
                           with_past ? ConstFloatMatrix(past.view()) : ConstFloatMatrix(), only.view(), {}, {});
    expect_close(only.download(), want.values, dtype, 2e-3F, "dx without sums");
  }
}

// So many rows that a CTA takes 64 of them; all are copies of a few, which small tiles encode alike.
TEST(ResidualNormCudaEdges, LargeTilesOfWideRowsGiveTheCodesOfSmallOnes) {
  const std::int64_t few = 37, rows = 64 * 264 + 16;
  for (const std::int64_t cols : {1280, 1600}) {
    const Inputs in({few, cols}, DType::kBFloat16);
    const DeviceBuffer<float> weight(in.weight), bias(in.bias);
    const auto codes_of = [&](std::int64_t count) {
      std::vector<float> values(static_cast<std::size_t>(count * cols));
      for (std::int64_t row = 0; row < count; ++row)
        std::ranges::copy(in.x.row(row % few), values.begin() + row * cols);
      const DeviceFloats x(values, count, cols, DType::kBFloat16);
      const DeviceBuffer<float> scales(count), mean(count), rstd(count);
      const DeviceBuffer<std::int8_t> codes(count * cols), transposed(count * cols);
      residual_norm(test::cuda_exec(), x.view(), {}, {weight.span(), bias.span()}, {},
                    {{},
                     {},
                     {codes.matrix(count, cols), transposed.matrix(cols, count)},
                     scales.span(),
                     mean.span(),
                     rstd.span()});
      return std::pair(Grid<std::int8_t>(count, cols, codes.download()),
                       Grid<std::int8_t>(cols, count, transposed.download()));
    };
    const auto [want, want_transposed] = codes_of(few);
    const auto [got, got_transposed] = codes_of(rows);
    EXPECT_TRUE(want_transposed.values == test::transposed(want).values) << cols;
    EXPECT_TRUE(got_transposed.values == test::transposed(got).values) << cols;
    for (std::int64_t row = 0; row < rows; ++row)
      ASSERT_TRUE(std::ranges::equal(got.row(row), want.row(row % few))) << "row " << row << " of " << cols;
  }
}

TEST(ResidualNormCudaEdges, RowsWithoutNumbersAreMarkedAndNoRowsGiveZeroSums) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    Grid<float> grid = test::random_grid(64, 768, 7);
    grid.at(3, 5) = INFINITY;
    grid.at(40, 700) = NAN;
    const DeviceFloats x(grid.values, 64, 768, dtype);
    const DeviceBuffer<float> weight(std::vector<float>(768, 1.0F)), scales(64), mean(64), rstd(64);
    const DeviceBuffer<std::int8_t> codes(64 * 768), transposed(64 * 768);
    residual_norm(
        test::cuda_exec(), x.view(), {}, {weight.span(), weight.span()}, {},
        {{}, {}, {codes.matrix(64, 768), transposed.matrix(768, 64)}, scales.span(), mean.span(), rstd.span()});
    const std::vector<float> got_scales = scales.download();
    const std::vector<std::int8_t> got = codes.download();
    for (std::size_t row = 0; row < 64; ++row) {
      const bool marked = row == 3 || row == 40;
      EXPECT_EQ(std::isnan(got_scales[row]), marked) << row;
      int others = 0;
      for (std::size_t c = 0; c < 768; ++c) others += got[row * 768 + c] != 0 ? 1 : 0;
      EXPECT_EQ(others == 0, marked) << row;
    }
    const DeviceBuffer<float> dweight(768), dbias(768);
    const FloatMatrix none{x.view().data, 0, 768, 768, dtype};
    residual_norm_backward(test::cuda_exec(), none, {none, {}, {}, weight.span()}, {}, none, dweight.span(),
                           dbias.span());
    EXPECT_TRUE(test::same_bits(dweight.download(), std::vector<float>(768)));
    EXPECT_TRUE(test::same_bits(dbias.download(), std::vector<float>(768)));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, ResidualNormCuda,
                         ::testing::Combine(::testing::ValuesIn(kShapes),
                                            ::testing::Values(DType::kFloat32, DType::kBFloat16)),
                         [](const auto& test_case) {
                           const auto shape = std::get<0>(test_case.param);
                           const DType dtype = std::get<1>(test_case.param);
                           return std::to_string(shape.rows) + "x" + std::to_string(shape.cols) +
                                  (dtype == DType::kFloat32 ? "Fp32" : "Bf16");
                         });

}  // namespace
}  // namespace qat::kernels

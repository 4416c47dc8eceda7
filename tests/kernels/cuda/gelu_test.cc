#include "kernels/activation/gelu.h"

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
constexpr Shape kShapes[] = {{1, 1},     {3, 5},     {33, 17},    {16, 8},      {64, 768},  {130, 2304},
                             {77, 264},  {33, 1600}, {96, 3072},  {40, 4096},   {17, 4800}, {35, 6400},
                             {5, 10248}, {2, 50000}, {16900, 64}, {16912, 136}, {70, 5120}, {45, 3840}};

class GeluCuda : public ::testing::TestWithParam<std::tuple<Shape, DType>> {};

Grid<float> input(Shape shape, DType dtype, unsigned seed) {
  Grid<float> grid = test::random_grid(shape.rows, shape.cols, seed);
  grid.values = test::rounded_to(grid.values, dtype);
  return grid;
}

// fp32: 2e-6 relative of gelu itself and 1e-6 absolute, where the CPU's 1 + tanh cancels; bf16: one step.
void expect_close(const std::vector<float>& got, const std::vector<float>& want, DType dtype, const Grid<float>& x) {
  ASSERT_EQ(got.size(), want.size());
  const float relative = dtype == DType::kBFloat16 ? 1.0F / 128 : 4e-6F;
  int failures = 0;
  for (std::size_t i = 0; i < got.size() && failures < 5; ++i) {
    if (std::abs(got[i] - want[i]) <= 2e-6F + relative * std::abs(want[i])) continue;
    ++failures;
    ADD_FAILURE() << "element " << i << " is " << got[i] << " instead of " << want[i] << " at x = " << x.values[i];
  }
}

TEST_P(GeluCuda, AgreesWithTheCpu) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols] = shape;
  const Grid<float> x = input(shape, dtype, 1);
  Grid<float> want(rows, cols);
  gelu({}, x.view(), want.view());
  const DeviceFloats device_x(x.values, rows, cols, dtype), y(rows, cols, dtype);
  gelu(test::cuda_exec(), device_x.view(), y.view());
  expect_close(y.download(), want.values, dtype, x);
  gelu(test::cuda_exec(), device_x.view(), device_x.view());
  EXPECT_TRUE(test::same_bits(device_x.download(), y.download())) << "in place";
}

TEST_P(GeluCuda, BackwardAgreesWithTheCpu) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols] = shape;
  const Grid<float> x = input(shape, dtype, 1);
  Grid<float> dy = input(shape, dtype, 2);
  for (float& value : dy.values) value = std::clamp(value, -1.0F, 1.0F);
  Grid<float> want(rows, cols);
  gelu_backward({}, dy.view(), x.view(), want.view());
  const DeviceFloats device_x(x.values, rows, cols, dtype), device_dy(dy.values, rows, cols, dtype);
  const DeviceFloats dx(rows, cols, dtype);
  gelu_backward(test::cuda_exec(), device_dy.view(), device_x.view(), dx.view());
  expect_close(dx.download(), want.values, dtype, x);
  gelu_backward(test::cuda_exec(), device_dy.view(), device_x.view(), device_dy.view());
  EXPECT_TRUE(test::same_bits(device_dy.download(), dx.download())) << "in place";
}

TEST_P(GeluCuda, CodesAreThoseOfItsOwnGelu) {
  const auto [shape, dtype] = GetParam();
  const auto [rows, cols] = shape;
  const Grid<float> x = input(shape, dtype, 3);
  const DeviceFloats device_x(x.values, rows, cols, dtype), y(rows, cols, dtype);
  gelu(test::cuda_exec(), device_x.view(), y.view());
  const Grid<float> got_y(rows, cols, y.download());
  const EncodeOptions options{.width = BitWidth(8)};
  Grid<std::int8_t> want_codes(rows, cols), want_transposed(cols, rows);
  std::vector<float> want_scales(static_cast<std::size_t>(rows));
  encode_rows({}, got_y.view(), options, {want_codes.view(), want_transposed.view()}, want_scales);
  for (const int wanted : {1, 2, 3}) {  // codes, transposed, both
    SCOPED_TRACE(wanted);
    const DeviceBuffer<std::int8_t> codes(rows * cols), transposed(rows * cols);
    const DeviceBuffer<float> scales(rows);
    CodesOut out;
    if ((wanted & 1) != 0) out.codes = codes.matrix(rows, cols);
    if ((wanted & 2) != 0) out.codes_transposed = transposed.matrix(cols, rows);
    const DeviceFloats values(rows, cols, dtype);
    gelu_encode(test::cuda_exec(), device_x.view(), options, out, scales.span(),
                wanted == 3 ? values.view() : FloatMatrix{});
    EXPECT_TRUE(wanted != 3 || test::same_bits(values.download(), got_y.values)) << "values";
    EXPECT_TRUE(test::same_bits(scales.download(), want_scales));
    EXPECT_TRUE((wanted & 1) == 0 || codes.download() == want_codes.values) << "codes";
    EXPECT_TRUE((wanted & 2) == 0 || transposed.download() == want_transposed.values) << "transposed codes";
  }
}

// More tiles than an H100 has multiprocessors, so that a CTA takes several. All rows are copies of a few.
TEST(GeluCudaEdges, ManyTilesOfWideRowsGiveTheCodesOfFew) {
  const std::int64_t few = 37, rows = 4 * 37 * 37 + 4, cols = 3840;
  const Grid<float> x = input({few, cols}, DType::kBFloat16, 1);
  const auto codes_of = [&](std::int64_t count) {
    std::vector<float> values(static_cast<std::size_t>(count * cols));
    for (std::int64_t row = 0; row < count; ++row) std::ranges::copy(x.row(row % few), values.begin() + row * cols);
    const DeviceFloats device_x(values, count, cols, DType::kBFloat16);
    const DeviceBuffer<float> scales(count);
    const DeviceBuffer<std::int8_t> codes(count * cols), transposed(count * cols);
    gelu_encode(test::cuda_exec(), device_x.view(), {}, {codes.matrix(count, cols), transposed.matrix(cols, count)},
                scales.span());
    return std::pair(Grid<std::int8_t>(count, cols, codes.download()),
                     Grid<std::int8_t>(cols, count, transposed.download()));
  };
  const auto [want, want_transposed] = codes_of(few);
  const auto [got, got_transposed] = codes_of(rows);
  EXPECT_TRUE(want_transposed.values == test::transposed(want).values);
  EXPECT_TRUE(got_transposed.values == test::transposed(got).values);
  for (std::int64_t row = 0; row < rows; ++row)
    ASSERT_TRUE(std::ranges::equal(got.row(row), want.row(row % few))) << "row " << row;
}

TEST(GeluCudaEdges, ExtremesAndRowsWithoutNumbers) {
  std::vector<float> values(8 * 64, 0.5F);
  const std::vector<float> extremes = {-1e30F, 1e30F, -INFINITY, INFINITY, NAN, 0.0F, -40.0F, 40.0F};
  std::copy(extremes.begin(), extremes.end(), values.begin());
  const DeviceFloats x(values, 8, 64, DType::kFloat32);
  const DeviceFloats y(8, 64, DType::kFloat32), dx(std::vector<float>(8 * 64, 1.0F), 8, 64, DType::kFloat32);
  gelu(test::cuda_exec(), x.view(), y.view());
  gelu_backward(test::cuda_exec(), dx.view(), x.view(), dx.view());
  const std::vector<float> got = y.download(), slopes = dx.download();
  EXPECT_EQ(got[0], 0.0F);
  EXPECT_NEAR(got[1] / 1e30F, 1.0F, 1e-6F);
  EXPECT_FALSE(std::isfinite(got[3]));
  EXPECT_TRUE(std::isnan(got[4]) && std::isnan(slopes[4]));
  EXPECT_EQ(got[5], 0.0F);
  EXPECT_NEAR(got[6], 0.0F, 1e-30F);
  EXPECT_NEAR(got[7], 40.0F, 4e-5F);
  EXPECT_NEAR(slopes[0], 0.0F, 1e-20F);
  EXPECT_NEAR(slopes[1], 1.0F, 1e-6F);
  EXPECT_NEAR(slopes[2], 0.0F, 1e-20F);
  EXPECT_NEAR(slopes[3], 1.0F, 1e-6F);
  const DeviceBuffer<std::int8_t> codes(8 * 64);
  const DeviceBuffer<float> scales(8);
  gelu_encode(test::cuda_exec(), x.view(), {}, {codes.matrix(8, 64), {}}, scales.span());
  EXPECT_TRUE(std::isnan(scales.download()[0]));
  EXPECT_FALSE(std::isnan(scales.download()[1]));
  const std::vector<std::int8_t> got_codes = codes.download();
  for (std::size_t c = 0; c < 64; ++c) EXPECT_EQ(got_codes[c], 0) << c;
}

INSTANTIATE_TEST_SUITE_P(Shapes, GeluCuda,
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

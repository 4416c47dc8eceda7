// Rows rounded in place on a GPU against the CPU, bit for bit.
#include "kernels/quant/round_rows.h"

#include <gtest/gtest.h>

#include <limits>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::Grid;

using Shape = std::pair<std::int64_t, std::int64_t>;

void compare(const Grid<float>& x, const EncodeOptions& options) {
  SCOPED_TRACE(std::to_string(x.rows) + " x " + std::to_string(x.cols) + ", " + std::to_string(options.width.bits()) +
               (options.rounding == Rounding::kStochastic ? " bits, stochastic" : " bits"));
  Grid<float> want = x;
  round_rows(Exec{}, want.view(), options);
  const DeviceBuffer<float> device_x(x.values);
  round_rows(test::cuda_exec(), device_x.matrix(x.rows, x.cols), options);
  EXPECT_TRUE(test::same_bits(device_x.download(), want.values));
}

constexpr Rounding kRoundings[] = {Rounding::kNearestEven, Rounding::kStochastic};

TEST(RoundRowsCuda, EqualsTheCpuForShapesOfEveryPath) {
  for (const auto& [rows, cols] :
       {Shape(1, 8), Shape(300, 8), Shape(2304, 16), Shape(1001, 24), Shape(77, 64), Shape(9, 200), Shape(9, 256),
        Shape(5, 264), Shape(16, 768), Shape(64, 1600), Shape(16, 6400), Shape(3, 8192), Shape(2, 8200), Shape(1, 1),
        Shape(33, 5), Shape(7, 1003)})
    for (const Rounding rounding : kRoundings)
      compare(test::random_grid(rows, cols, 3),
              {.amax_floor = kGradientAmaxFloor, .rounding = rounding, .key = {0x123456789ABCDEFULL, 77}});
}

TEST(RoundRowsCuda, EqualsTheCpuAtEveryWidth) {
  for (const auto& [rows, cols] : {Shape(40, 16), Shape(4, 776), Shape(4, 77)})
    for (int bits = 2; bits <= 8; ++bits)
      for (const Rounding rounding : kRoundings)
        compare(test::random_grid(rows, cols, 4), {.width = BitWidth(bits), .rounding = rounding, .key = {5, 6}});
}

TEST(RoundRowsCuda, TreatsZerosTinyAndNonFiniteRowsAsTheCpuDoes) {
  for (const auto& [rows, cols] : {Shape(40, 16), Shape(6, 776), Shape(6, 77)})
    for (const Rounding rounding : kRoundings) {
      Grid<float> x = test::random_grid(rows, cols, 5);
      x.at(0, 3) = std::numeric_limits<float>::infinity();
      x.at(1, cols - 1) = -std::numeric_limits<float>::quiet_NaN();
      for (std::int64_t c = 0; c < cols; ++c) {
        x.at(2, c) = c % 2 == 0 ? 0.0F : -0.0F;
        x.at(3, c) *= 1e-38F;
        x.at(4, c) *= 1e36F;
      }
      compare(x, {.amax_floor = kGradientAmaxFloor, .rounding = rounding, .key = {1, 2}});
    }
}

TEST(RoundRowsCuda, TakesMemoryOffTheVectorsBoundary) {
  const Grid<float> x = test::random_grid(6, 64, 8);
  std::vector<float> shifted(1, 7.0F);
  shifted.insert(shifted.end(), x.values.begin(), x.values.end());
  const DeviceBuffer<float> device(shifted);
  const EncodeOptions options{.rounding = Rounding::kStochastic, .key = {3, 9}};
  round_rows(test::cuda_exec(), {device.data() + 1, 6, 64}, options);
  Grid<float> want = x;
  round_rows(Exec{}, want.view(), options);
  const std::vector<float> got = device.download();
  EXPECT_EQ(got[0], 7.0F);
  EXPECT_TRUE(test::same_bits(std::span(got).subspan(1), want.values));
}

TEST(RoundRowsCuda, AtFullPrecisionLeavesEverything) { compare(test::random_grid(3, 16, 1), {.width = BitWidth(32)}); }

}  // namespace
}  // namespace qat::kernels

// Ranges on a GPU against the CPU: minima and maxima bit for bit, logarithms to rounding.
#include "kernels/quant/range.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/support/device_buffer.h"
#include "tests/support/kernel_data.h"

namespace qat::kernels {
namespace {

using test::DeviceBuffer;
using test::Grid;

constexpr float kEps = 1e-5F;
constexpr Axis kAxes[] = {Axis::kTensor, Axis::kRow, Axis::kCol};

std::vector<Grid<float>> inputs() {
  std::vector<Grid<float>> grids;
  for (const auto& [rows, cols] : {std::pair<std::int64_t, std::int64_t>(1, 1),
                                   {3, 5},
                                   {33, 17},
                                   {64, 768},
                                   {130, 2304},
                                   {5000, 40},
                                   {2, 100001}}) {
    Grid<float> x = test::random_grid(rows, cols, 4);
    for (std::size_t i = 2; i < x.values.size(); i += 13) x.values[i] = i % 2 == 0 ? -0.0F : 1e-7F;
    grids.push_back(x);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      x.at(rows / 2, cols / 3) = bad;
      grids.push_back(x);
    }
  }
  grids.emplace_back(40, 24, 0.0F);
  grids.emplace_back(40, 24, -0.0F);
  grids.emplace_back(3, 7, std::vector<float>(21, -std::numeric_limits<float>::max()));
  return grids;
}

// Body(x, axis, groups, device_x) for every input and axis.
template <typename Body>
void for_all(const Body& body) {
  for (const Grid<float>& x : inputs())
    for (const Axis axis : kAxes) {
      SCOPED_TRACE(std::to_string(x.rows) + " x " + std::to_string(x.cols) + ", axis " +
                   std::to_string(static_cast<int>(axis)));
      const DeviceBuffer<float> device_x(x.values);
      body(x, axis, groups_of(x.view(), axis), device_x.matrix(x.rows, x.cols));
    }
}

void expect_near(const std::vector<float>& got, const std::vector<float>& want, float tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t g = 0; g < got.size(); ++g) {
    if (std::isnan(want[g])) {
      EXPECT_TRUE(std::isnan(got[g])) << "group " << g << " is " << got[g] << " instead of NaN";
    } else {
      EXPECT_NEAR(got[g], want[g], tolerance * (1.0F + std::fabs(want[g]))) << "group " << g;
    }
  }
}

TEST(RangeCuda, MinMaxEqualsTheCpu) {
  for_all([](const Grid<float>& x, Axis axis, std::int64_t groups, Matrix<const float> device_x) {
    std::vector<float> lo(static_cast<std::size_t>(groups)), hi(lo);
    min_max(Exec{}, x.view(), axis, lo, hi);
    const DeviceBuffer<float> device_lo(groups), device_hi(groups);
    min_max(test::cuda_exec(), device_x, axis, device_lo.span(), device_hi.span());
    EXPECT_TRUE(test::same_bits(device_lo.download(), lo)) << "minima";
    EXPECT_TRUE(test::same_bits(device_hi.download(), hi)) << "maxima";
  });
}

TEST(RangeCuda, LogRangeIsNearTheCpu) {
  for_all([](const Grid<float>& x, Axis axis, std::int64_t groups, Matrix<const float> device_x) {
    for (const bool masked : {false, true}) {
      std::vector<float> lo(static_cast<std::size_t>(groups)), hi(lo);
      log_range(Exec{}, x.view(), axis, kEps, masked, lo, hi);
      const DeviceBuffer<float> device_lo(groups), device_hi(groups);
      log_range(test::cuda_exec(), device_x, axis, kEps, masked, device_lo.span(), device_hi.span());
      expect_near(device_lo.download(), lo, 1e-6F);
      expect_near(device_hi.download(), hi, 1e-6F);
    }
  });
}

TEST(RangeCuda, LogMeanIsNearTheCpuAndTheSameEveryTime) {
  for_all([](const Grid<float>& x, Axis axis, std::int64_t groups, Matrix<const float> device_x) {
    std::vector<float> means(static_cast<std::size_t>(groups));
    log_mean(Exec{}, x.view(), axis, kEps, means);
    const DeviceBuffer<float> first(groups), second(groups);
    log_mean(test::cuda_exec(), device_x, axis, kEps, first.span());
    log_mean(test::cuda_exec(), device_x, axis, kEps, second.span());
    expect_near(first.download(), means, 2e-6F);
    EXPECT_TRUE(test::same_bits(second.download(), first.download()));
  });
}

}  // namespace
}  // namespace qat::kernels

#include "kernels/quant/range.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/quant/range_cpu.h"
#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kEps = 1e-5F;
const float kLogEps = static_cast<float>(std::log2(1e-5));  // -16.6096

struct Range {
  std::vector<float> lo;
  std::vector<float> hi;
};

Range min_max_of(const Grid<float>& x, Axis axis, const Exec& exec = {}, CpuIsa isa = best_cpu_isa()) {
  const auto groups = static_cast<std::size_t>(groups_of(x.view(), axis));
  Range range{std::vector<float>(groups), std::vector<float>(groups)};
  min_max_cpu(exec, x.view(), axis, range.lo, range.hi, isa);
  return range;
}

Range log_range_of(const Grid<float>& x, Axis axis, bool masked, const Exec& exec = {}) {
  const auto groups = static_cast<std::size_t>(groups_of(x.view(), axis));
  Range range{std::vector<float>(groups), std::vector<float>(groups)};
  log_range(exec, x.view(), axis, kEps, masked, range.lo, range.hi);
  return range;
}

std::vector<float> log_mean_of(const Grid<float>& x, Axis axis, const Exec& exec = {}) {
  std::vector<float> means(static_cast<std::size_t>(groups_of(x.view(), axis)));
  log_mean(exec, x.view(), axis, kEps, means);
  return means;
}

TEST(MinMax, FindsTheRangeOfEachGroup) {
  const Grid<float> x(2, 3, {-3.0F, 0.5F, 2.0F, 7.0F, -0.25F, 1.0F});
  const Range tensor = min_max_of(x, Axis::kTensor), rows = min_max_of(x, Axis::kRow), cols = min_max_of(x, Axis::kCol);
  EXPECT_EQ(tensor.lo, (std::vector<float>{-3.0F}));
  EXPECT_EQ(tensor.hi, (std::vector<float>{7.0F}));
  EXPECT_EQ(rows.lo, (std::vector<float>{-3.0F, -0.25F}));
  EXPECT_EQ(rows.hi, (std::vector<float>{2.0F, 7.0F}));
  EXPECT_EQ(cols.lo, (std::vector<float>{-3.0F, -0.25F, 1.0F}));
  EXPECT_EQ(cols.hi, (std::vector<float>{7.0F, 0.5F, 2.0F}));
}

TEST(MinMax, AgreesWithTheStandardLibraryOnEveryInstructionSetAndCut) {
  const Grid<float> x = test::random_grid(419, 333, 7);  // more than two blocks of the whole-tensor pass
  const auto [lowest, highest] = std::minmax_element(x.values.begin(), x.values.end());
  std::vector<float> row_lo, row_hi, col_lo(333, kInfinity), col_hi(333, -kInfinity);
  for (std::int64_t r = 0; r < x.rows; ++r) {
    const auto [lo, hi] = std::minmax_element(x.row(r).begin(), x.row(r).end());
    row_lo.push_back(*lo);
    row_hi.push_back(*hi);
    for (std::size_t c = 0; c < 333; ++c) {
      col_lo[c] = std::min(col_lo[c], x.row(r)[c]);
      col_hi[c] = std::max(col_hi[c], x.row(r)[c]);
    }
  }
  for (const CpuIsa isa : {CpuIsa::kPortable, best_cpu_isa()})
    for (const int threads : {1, 2, 5}) {
      const test::ThreadsParallelFor parallel(threads);
      const Exec exec{.parallel = &parallel};
      const Range tensor = min_max_of(x, Axis::kTensor, exec, isa);
      EXPECT_EQ(tensor.lo[0], *lowest);
      EXPECT_EQ(tensor.hi[0], *highest);
      const Range rows = min_max_of(x, Axis::kRow, exec, isa), cols = min_max_of(x, Axis::kCol, exec, isa);
      EXPECT_EQ(rows.lo, row_lo);
      EXPECT_EQ(rows.hi, row_hi);
      EXPECT_EQ(cols.lo, col_lo);
      EXPECT_EQ(cols.hi, col_hi);
    }
}

TEST(MinMax, IsNaNForAGroupThatIsNotFinite) {
  for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
    Grid<float> x = test::random_grid(3, 40, 1);
    x.at(1, 19) = bad;
    for (const Axis axis : {Axis::kTensor, Axis::kRow, Axis::kCol}) {
      const Range range = min_max_of(x, axis);
      const std::size_t marked = axis == Axis::kTensor ? 0 : axis == Axis::kRow ? 1 : 19;
      for (std::size_t g = 0; g < range.lo.size(); ++g) {
        EXPECT_EQ(std::isnan(range.lo[g]), g == marked);
        EXPECT_EQ(std::isnan(range.hi[g]), g == marked);
      }
    }
  }
}

TEST(MinMax, KeepsTheLargestFiniteNumbersAndGivesPositiveZero) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const Range range = min_max_of(Grid<float>(2, 2, {-kLargest, kLargest, -0.0F, -0.0F}), Axis::kRow);
  EXPECT_TRUE(test::same_bits(range.lo, std::vector<float>{-kLargest, 0.0F}));
  EXPECT_TRUE(test::same_bits(range.hi, std::vector<float>{kLargest, 0.0F}));
}

TEST(MinMax, RefusesGroupsWithoutElements) {
  const Grid<float> x(3, 0);
  std::vector<float> three(3), two(2);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { min_max(Exec{}, x.view(), Axis::kRow, three, three); }),
              HasSubstr("no range"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { min_max(Exec{}, x.view(), Axis::kRow, two, three); }),
              HasSubstr("2 results for 3 groups"));
}

TEST(LogRange, RaisesZerosToEpsUnlessTheyAreMasked) {  // the golden statistics
  const Grid<float> x(1, 9, {-1.0F, -.6F, -.25F, -.04F, 0.0F, .02F, .13F, .5F, .9F});
  for (const Axis axis : {Axis::kTensor, Axis::kRow}) {
    const Range seed = log_range_of(x, axis, /*masked=*/false), masked = log_range_of(x, axis, /*masked=*/true);
    EXPECT_NEAR(seed.lo[0], -16.609640F, 1e-5F);
    EXPECT_EQ(seed.hi[0], 0.0F);
    EXPECT_NEAR(masked.lo[0], -5.643856F, 1e-6F);
    EXPECT_EQ(masked.hi[0], 0.0F);
  }
}

TEST(LogRange, MasksExactlyWhatIsNotAboveEps) {
  const Grid<float> x(2, 4, {kEps, -kEps, 0.0F, -4.0F, kEps, 0.0F, -0.0F, 1e-9F});
  const Range masked = log_range_of(x, Axis::kRow, /*masked=*/true);
  EXPECT_EQ(masked.lo, (std::vector<float>{2.0F, kLogEps}));  // -4 alone; nothing
  EXPECT_EQ(masked.hi, (std::vector<float>{2.0F, kLogEps}));
  const Range raised = log_range_of(x, Axis::kRow, /*masked=*/false);
  EXPECT_EQ(raised.lo, (std::vector<float>{kLogEps, kLogEps}));
  EXPECT_EQ(raised.hi, (std::vector<float>{2.0F, kLogEps}));
}

TEST(LogRange, AgreesWithElementwiseLogarithmsForEveryAxisAndCut) {
  Grid<float> x = test::random_grid(210, 330, 3);
  for (std::size_t i = 0; i < x.values.size(); i += 13) x.values[i] = 0.0F;
  const auto group = [&](Axis axis, std::int64_t r, std::int64_t c) {
    return static_cast<std::size_t>(axis == Axis::kTensor ? 0 : axis == Axis::kRow ? r : c);
  };
  for (const Axis axis : {Axis::kTensor, Axis::kRow, Axis::kCol})
    for (const bool masked : {false, true}) {
      const auto groups = static_cast<std::size_t>(groups_of(x.view(), axis));
      Range want{std::vector<float>(groups, kInfinity), std::vector<float>(groups, -kInfinity)};
      for (std::int64_t r = 0; r < x.rows; ++r)
        for (std::int64_t c = 0; c < x.cols; ++c) {
          const float magnitude = std::fabs(x.at(r, c));
          if (masked && magnitude <= kEps) continue;
          const auto log = static_cast<float>(std::log2(static_cast<double>(std::max(magnitude, kEps))));
          float& lo = want.lo[group(axis, r, c)];
          float& hi = want.hi[group(axis, r, c)];
          lo = std::min(lo, log);
          hi = std::max(hi, log);
        }
      for (const int threads : {1, 3}) {
        const test::ThreadsParallelFor parallel(threads);
        const Range got = log_range_of(x, axis, masked, Exec{.parallel = &parallel});
        EXPECT_EQ(got.lo, want.lo);
        EXPECT_EQ(got.hi, want.hi);
      }
    }
}

TEST(LogMean, AveragesExponentsOfWhatIsAboveEps) {
  const Grid<float> x(3, 4, {-8.0F, 2.0F, 0.0F, kEps, 0.0F, 1e-6F, -kEps, 0.0F, 0.5F, 0.5F, -0.25F, -0.25F});
  EXPECT_EQ(log_mean_of(x, Axis::kRow), (std::vector<float>{2.0F, kLogEps, -1.5F}));
  EXPECT_FLOAT_EQ(log_mean_of(x, Axis::kTensor)[0], (3.0F + 1.0F - 1.0F - 1.0F - 2.0F - 2.0F) / 6.0F);
  EXPECT_EQ(log_mean_of(x, Axis::kCol), (std::vector<float>{1.0F, 0.0F, -2.0F, -2.0F}));
}

TEST(LogMean, DoesNotDependOnHowTheWorkIsCut) {
  const Grid<float> x = test::random_grid(500, 301, 9);
  for (const Axis axis : {Axis::kTensor, Axis::kRow, Axis::kCol}) {
    const std::vector<float> alone = log_mean_of(x, axis);
    for (const int threads : {2, 7}) {
      const test::ThreadsParallelFor parallel(threads);
      EXPECT_TRUE(test::same_bits(log_mean_of(x, axis, Exec{.parallel = &parallel}), alone));
    }
  }
}

TEST(LogStatistics, AreNaNForAGroupThatIsNotFinite) {
  for (const float bad : {kNaN, -kNaN, kInfinity, -kInfinity}) {
    Grid<float> x = test::random_grid(3, 40, 1);
    x.at(1, 19) = bad;
    for (const Axis axis : {Axis::kTensor, Axis::kRow, Axis::kCol}) {
      const std::size_t marked = axis == Axis::kTensor ? 0 : axis == Axis::kRow ? 1 : 19;
      const Range raised = log_range_of(x, axis, false), masked = log_range_of(x, axis, true);
      const std::vector<float> means = log_mean_of(x, axis);
      for (std::size_t g = 0; g < means.size(); ++g)
        for (const float value : {raised.lo[g], raised.hi[g], masked.lo[g], masked.hi[g], means[g]})
          EXPECT_EQ(std::isnan(value), g == marked);
    }
  }
}

}  // namespace
}  // namespace qat::kernels

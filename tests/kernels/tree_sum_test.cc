#include "kernels/grad/tree_sum.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using ::testing::HasSubstr;

// Level by level, the last one going up unpaired.
float tree_by_hand(std::vector<float> values) {
  while (values.size() > 1) {
    std::vector<float> next;
    for (std::size_t i = 0; i < values.size(); i += 2)
      next.push_back(i + 1 < values.size() ? values[i] + values[i + 1] : values[i]);
    values = next;
  }
  return values[0];
}

std::vector<float> sums_by_hand(const std::vector<float>& x, std::size_t parts) {
  const std::size_t n = x.size() / parts;
  std::vector<float> sums;
  for (std::size_t i = 0; i < n; ++i) {
    std::vector<float> column;
    for (std::size_t part = 0; part < parts; ++part) column.push_back(x[part * n + i]);
    sums.push_back(tree_by_hand(column));
  }
  return sums;
}

TEST(TreeSum, AddsNeighboursFirst) {
  // In index order 1e8 + 1 - 1e8 + 1 is 1 in fp32 (1e8 + 1 rounds to 1e8); as a tree it is 1e8 + (1 - 1e8), which is 0.
  const std::vector<float> x{1e8F, 1.0F, -1e8F, 1.0F};
  std::vector<float> sum(1, -1.0F);
  tree_sum(Exec{}, x, 4, sum);
  EXPECT_EQ(sum[0], (1e8F + 1.0F) + (-1e8F + 1.0F));
  // Three parts: (p0 + p1) + p2.
  const std::vector<float> three{1.0F, 2.0F, 10.0F, 20.0F, 100.0F, 200.0F};
  std::vector<float> sums(2);
  tree_sum(Exec{}, three, 3, sums);
  EXPECT_EQ(sums, (std::vector<float>{111.0F, 222.0F}));
}

TEST(TreeSum, IsTheBalancedTreeToTheBitInPlaceToo) {
  for (const std::int64_t parts : {1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 31, 64, 65, 130, 200}) {
    for (const std::int64_t n : {1, 5, 333}) {
      std::vector<float> x = test::random_grid(parts, n, static_cast<unsigned>(parts + n)).values;
      const std::vector<float> want = sums_by_hand(x, static_cast<std::size_t>(parts));
      std::vector<float> sum(static_cast<std::size_t>(n), -7.0F);
      tree_sum(Exec{}, x, parts, sum);
      EXPECT_TRUE(test::same_bits(sum, want)) << parts << " parts of " << n;
      const std::span<float> first = std::span(x).first(static_cast<std::size_t>(n));
      tree_sum(Exec{}, x, parts, first);
      EXPECT_TRUE(test::same_bits(first, want)) << parts << " parts of " << n << ", in place";
    }
  }
}

TEST(TreeSum, DoesNotDependOnTheNumberOfThreads) {
  const std::vector<float> x = test::random_grid(5, 70001, 3).values;
  std::vector<float> alone(70001), threads(70001);
  tree_sum(Exec{}, x, 5, alone);
  const test::ThreadsParallelFor parallel(3);
  tree_sum(Exec{.parallel = &parallel}, x, 5, threads);
  EXPECT_TRUE(test::same_bits(threads, alone));
}

TEST(TreeSum, RefusesLengthsThatDoNotFitAndSumsInsideTheParts) {
  std::vector<float> x(12), sum(3);
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { tree_sum(Exec{}, x, 3, sum); }),
              HasSubstr("3 parts of 3 elements in a buffer of 12"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { tree_sum(Exec{}, {}, 0, {}); }), HasSubstr("0 parts"));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { tree_sum(Exec{}, x, 4, std::span(x).subspan(3, 3)); }),
              HasSubstr("the first part and no other"));
  tree_sum(Exec{}, {}, 4, {});
}

TEST(AddFlat, AddsElementByElement) {
  std::vector<float> a = test::random_grid(1, 40007, 1).values;
  const std::vector<float> b = test::random_grid(1, 40007, 2).values;
  std::vector<float> want = a;
  for (std::size_t i = 0; i < a.size(); ++i) want[i] = a[i] + b[i];
  const test::ThreadsParallelFor parallel(2);
  add_flat(Exec{.parallel = &parallel}, a, b);
  EXPECT_TRUE(test::same_bits(a, want));
  EXPECT_THAT(test::error_of(ErrorKind::kInternal, [&] { add_flat(Exec{}, a, std::span(b).first(3)); }),
              HasSubstr("adds 3 elements to 40007"));
}

}  // namespace
}  // namespace qat::kernels

#include "kernels/embedding/embedding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "tests/support/kernel_data.h"
#include "tests/support/threads_parallel_for.h"

namespace qat::kernels {
namespace {

using test::Grid;
using ::testing::ElementsAre;

TEST(Embedding, AddsTokenAndPosition) {
  const Grid<float> tokens(3, 2, {1, 2, 3, 4, 5, 6});
  const Grid<float> positions(3, 2, {10, 20, 30, 40, 50, 60});
  const std::vector<std::int64_t> ids = {2, 0, 1, 1};
  Grid<float> x(4, 2);
  embed({}, ids, 2, tokens.view(), positions.view(), x.view());
  EXPECT_THAT(x.values, ElementsAre(15, 26, 31, 42, 13, 24, 33, 44));
}

TEST(Embedding, BackwardSumsByTokenAndByPosition) {
  const Grid<float> dx(4, 2, {1, 2, 3, 4, 5, 6, 7, 8});
  const std::vector<std::int64_t> ids = {2, 0, 2, 2};
  Grid<float> tokens(4, 2, 100.0F);
  Grid<float> positions(3, 2, 100.0F);
  embed_backward({}, dx.view(), ids, 2, tokens.view(), positions.view());
  EXPECT_THAT(tokens.values, ElementsAre(103, 104, 100, 100, 113, 116, 100, 100)) << "added";
  EXPECT_THAT(positions.values, ElementsAre(6, 8, 10, 12, 0, 0)) << "overwritten, and zero past the length";
  embed_backward({}, dx.view(), ids, 2, {}, positions.view());
  embed_backward({}, dx.view(), ids, 2, tokens.view(), {});
  EXPECT_EQ(tokens.at(0, 0), 106.0F);
}

TEST(Embedding, ThreadsChangeNothing) {
  const Grid<float> dx = test::random_grid(96, 130, 1);
  std::mt19937 generator(2);
  std::vector<std::int64_t> ids(96);
  for (std::int64_t& id : ids) id = static_cast<std::int64_t>(generator() % 7);
  const test::ThreadsParallelFor threads(3);
  Grid<float> tokens(7, 130), many_tokens(7, 130), positions(32, 130), many_positions(32, 130);
  embed_backward({}, dx.view(), ids, 32, tokens.view(), positions.view());
  embed_backward({.parallel = &threads}, dx.view(), ids, 32, many_tokens.view(), many_positions.view());
  EXPECT_TRUE(test::same_bits(tokens.values, many_tokens.values));
  EXPECT_TRUE(test::same_bits(positions.values, many_positions.values));
}

TEST(Embedding, RefusesWhatDoesNotFit) {
  const Grid<float> tokens(3, 2), positions(2, 2);
  Grid<float> x(4, 2);
  const std::vector<std::int64_t> unknown = {0, 1, 3, 0};
  EXPECT_THAT(
      test::error_of(ErrorKind::kInternal, [&] { embed({}, unknown, 2, tokens.view(), positions.view(), x.view()); }),
      ::testing::HasSubstr("token 3 of a vocabulary of 3"));
  EXPECT_THAT(
      test::error_of(ErrorKind::kInternal, [&] { embed({}, unknown, 3, tokens.view(), positions.view(), x.view()); }),
      ::testing::HasSubstr("4 tokens in sequences of 3"));
  EXPECT_THAT(
      test::error_of(ErrorKind::kInternal, [&] { embed({}, unknown, 4, tokens.view(), positions.view(), x.view()); }),
      ::testing::HasSubstr("the position table is [2, 2] where at least [4, 2] is needed"));
}

}  // namespace
}  // namespace qat::kernels

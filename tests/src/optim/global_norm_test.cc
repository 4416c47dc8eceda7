// The global norm against its definition, over ranks, buckets and groups.
#include "src/optim/global_norm.h"

#include <gtest/gtest.h>

#include <cmath>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"
#include "kernels/optim/adamw_flat.h"
#include "tests/support/optim_layouts.h"

namespace qat {
namespace {

float gradient(std::size_t tensor, std::int64_t element) {
  return static_cast<float>(std::sin(static_cast<double>(element * 7 + static_cast<std::int64_t>(tensor)))) /
         static_cast<float>(tensor + 1);
}

// Block after block of each tensor, tensor after tensor.
double by_definition() {
  double sum = 0.0;
  for (std::size_t t = 0; t < test::kTensorElems.size(); ++t) {
    std::vector<float> tensor;
    for (std::int64_t i = 0; i < test::kTensorElems[t]; ++i) tensor.push_back(gradient(t, i));
    std::vector<double> blocks(static_cast<std::size_t>((test::kTensorElems[t] + kNormBlock - 1) / kNormBlock));
    kernels::block_sum_squares({}, tensor, kNormBlock, blocks);
    for (const double block : blocks) sum += block;
  }
  return std::sqrt(sum);
}

TEST(GlobalNorm, HasTheSameBitsOverAnyRanksBucketsAndGroups) {
  const double expected = by_definition();
  for (const int ranks : {1, 2, 3, 4, 6, 8}) {
    for (const std::int64_t bucket_elems : test::kBucketSizes) {
      const OptimLayout layout = test::two_groups(ranks, bucket_elems);
      const auto flat = test::flat_values(layout, gradient);
      dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
        GlobalNorm norm(layout, *dist::host_flat_memory());
        const auto shards = test::shards_of(layout, comm.rank(), flat);
        for (int turn = 0; turn < 2; ++turn)
          EXPECT_EQ(norm(comm, {}, shards), expected) << ranks << " ranks, buckets of " << bucket_elems;
        for (std::size_t t = 0; t < test::kTensorElems.size(); ++t) {
          double squares = 0.0;
          for (std::int64_t i = 0; i < test::kTensorElems[t]; ++i)
            squares += static_cast<double>(gradient(t, i)) * gradient(t, i);
          EXPECT_NEAR(norm.tensor_squares()[t], squares, 1e-6 * squares) << t;
        }
      });
    }
  }
}

TEST(GlobalNorm, SquaresAreAlsoThoseOfEachWidthsOwnTensors) {
  for (const int ranks : {1, 3}) {
    OptimLayout layout = test::two_groups(ranks, test::kBucketSizes[1]);
    const auto flat = test::flat_values(layout, gradient);
    const auto squares_of = [&](const std::vector<int>& widths) {
      for (std::size_t t = 0; t < layout.tensors.size(); ++t)
        layout.tensors[t].width = widths[static_cast<std::size_t>(layout.tensors[t].group)];
      std::vector<double> squares;
      dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
        GlobalNorm norm(layout, *dist::host_flat_memory());
        const double all = norm(comm, {}, test::shards_of(layout, comm.rank(), flat));
        EXPECT_EQ(all, by_definition());
        if (comm.rank() == 0) squares = norm.width_squares();
      });
      return squares;
    };
    const std::vector<double> one = squares_of({0, 0}), apart = squares_of({0, 32});
    EXPECT_EQ(std::sqrt(one[0]), by_definition());  // to the bit
    EXPECT_EQ(one[32], 0.0);
    for (const int group : {0, 1}) {
      double squares = 0.0;
      for (auto t = static_cast<std::size_t>(group); t < test::kTensorElems.size(); t += 2)
        for (std::int64_t i = 0; i < test::kTensorElems[t]; ++i)
          squares += static_cast<double>(gradient(t, i)) * gradient(t, i);
      EXPECT_NEAR(apart[group == 0 ? 0 : 32], squares, 1e-6 * squares) << group;
    }
  }
}

TEST(GlobalNorm, IsThatOfAllGroups) {
  const OptimLayout layout = test::two_groups(1, test::kBucketSizes[0]);
  const auto flat = test::flat_values(layout, gradient);
  auto shards = test::shards_of(layout, 0, flat);
  const auto comm = dist::make_single_comm();
  GlobalNorm norm(layout, *dist::host_flat_memory());
  shards.pop_back();
  EXPECT_THROW((void)norm(*comm, {}, shards), Error);
}

TEST(GlobalNorm, AGroupThatTakesNoPartCountsAsZeros) {
  for (const int ranks : {1, 3}) {
    const OptimLayout layout = test::two_groups(ranks, test::kBucketSizes[1]);
    const auto flat = test::flat_values(layout, gradient);
    auto zeroed = flat;
    std::fill(zeroed[0].begin(), zeroed[0].end(), 0.0F);
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      GlobalNorm norm(layout, *dist::host_flat_memory());
      const double all = norm(comm, {}, test::shards_of(layout, comm.rank(), flat));
      auto shards = test::shards_of(layout, comm.rank(), zeroed);
      const double expected = norm(comm, {}, shards);
      shards[0].clear();
      EXPECT_EQ(norm(comm, {}, shards), expected);
      EXPECT_LT(expected, all);
      EXPECT_EQ(norm(comm, {}, test::shards_of(layout, comm.rank(), flat)), all);
    });
  }
}

}  // namespace
}  // namespace qat

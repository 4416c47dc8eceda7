// When and in which order buckets are exchanged. That a GPU's are under way early shows in the calls, on any device.
#include "dist/grad/grad_exchange.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <vector>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist {
namespace {

TEST(GradExchange, BucketsGoInTheOrderInWhichBackwardCompletesThem) {
  const std::vector<BucketPlace> order = exchange_order({{0, 40, 90}, {20, 5}});
  EXPECT_EQ(order, (std::vector<BucketPlace>{{0, 2}, {0, 1}, {1, 0}, {1, 1}, {0, 0}}));
}

// Two groups of two buckets on two ranks; "overlapped", on a stream that a CPU does not have.
struct TwoGroups {
  TwoGroups(Communicator& comm, bool overlapped)
      : layout(std::vector<std::int64_t>{4, 4}, {.pad_to = 2, .bucket_elems = 4}) {
    syncs.reserve(2);
    for (int i = 0; i < 2; ++i) syncs.emplace_back(comm, layout, host_flat_memory(), GradSyncOptions{});
    exchange.emplace(syncs, std::vector<BucketPlace>{{1, 1}, {0, 1}, {1, 0}, {0, 0}}, Device::kCpu, StreamRef{},
                     StreamRef{}, overlapped);
  }
  void start(std::int64_t passes) {
    for (GradSync& sync : syncs) sync.start(passes);
    exchange->start();
  }
  void write(int sync, int bucket, float value) {
    GradSync& one = syncs[static_cast<std::size_t>(sync)];
    for (float& element : one.leaf(bucket)) element = value;
    one.commit(bucket);
  }
  FlatLayout layout;
  std::vector<GradSync> syncs;
  std::optional<GradExchange> exchange;
};

TEST(GradExchange, BucketsGoEarlyOnceAllBeforeThemHaveGone) {
  run_local_ranks(2, [](Communicator& comm) {
    TwoGroups s(comm, /*overlapped=*/true);
    const auto value = static_cast<float>(comm.rank() + 1);
    s.start(1);
    s.exchange->allow_early();
    s.write(0, 1, value);
    EXPECT_EQ(s.exchange->launched_early(), 0) << "{1, 1} comes first";
    s.write(1, 1, value);
    EXPECT_EQ(s.exchange->launched_early(), 2);
    s.write(0, 0, value);
    EXPECT_EQ(s.exchange->launched_early(), 2);
    s.write(1, 0, value);
    EXPECT_EQ(s.exchange->launched_early(), 4);
    s.exchange->finish();
    for (GradSync& sync : s.syncs)
      for (const std::span<const float> shard : sync.finish())
        for (const float element : shard) EXPECT_EQ(element, 3.0F);
  });
}

TEST(GradExchange, NothingGoesEarlyBeforeTheLastPassOrWhereNothingOverlaps) {
  run_local_ranks(2, [](Communicator& comm) {
    for (const bool overlapped : {false, true}) {
      TwoGroups s(comm, overlapped);
      s.start(2);
      for (int pass = 0; pass < 2; ++pass) {
        if (pass == 1 && !overlapped) s.exchange->allow_early();
        for (const int bucket : {1, 0})
          for (const int sync : {1, 0}) s.write(sync, bucket, 1.0F);
        for (GradSync& sync : s.syncs) sync.end_pass();
      }
      EXPECT_EQ(s.exchange->launched_early(), 0);
      s.exchange->finish();
      EXPECT_EQ(s.syncs[0].finish()[0][0], 4.0F);
    }
  });
}

// One rank's memory gives out in the middle of the last pass: it makes the calls that the others have made already.
TEST(GradExchange, ARankThatGivesUpMakesTheSameCalls) {
  run_local_ranks(2, [](Communicator& comm) {
    TwoGroups s(comm, /*overlapped=*/true);
    s.start(1);
    s.exchange->allow_early();
    s.write(1, 1, 1.0F);
    if (comm.rank() == 0) {
      s.write(0, 1, 1.0F), s.write(1, 0, 1.0F), s.write(0, 0, 1.0F);
      EXPECT_EQ(s.exchange->launched_early(), 4);
    } else {
      (void)s.syncs[0].leaf(1);  // begun, never written
      for (GradSync& sync : s.syncs) sync.give_up();
    }
    s.exchange->finish();
    EXPECT_EQ(s.syncs[1].finish()[1][0], 2.0F) << "what both had";
    EXPECT_EQ(s.syncs[0].finish()[0][0], 1.0F) << "the other gave up";
  });
}

TEST(GradExchange, GroupsThatRestAreLeftOut) {
  run_local_ranks(2, [](Communicator& comm) {
    TwoGroups s(comm, /*overlapped=*/true);
    s.start(1);
    s.syncs[1].rest();
    s.exchange->allow_early();
    s.write(0, 1, 1.0F);
    s.write(0, 0, 1.0F);
    EXPECT_EQ(s.exchange->launched_early(), 2);
    s.exchange->finish();
    EXPECT_EQ(s.syncs[0].finish()[0][0], 2.0F);
  });
}

TEST(GradSyncWire, FirstSumsAreMeasuredBesideFp32s) {
  run_local_ranks(2, [](Communicator& comm) {
    const FlatLayout layout(std::vector<std::int64_t>{512, 512}, {.pad_to = 2, .bucket_elems = 512, .exact_from = 1});
    GradSync sync(comm, layout, host_flat_memory(),
                  {.reducer = {.wire = {.format = WireFormat::kInt4},
                               .staging = std::make_shared<WireStaging>(host_flat_memory())}});
    sync.start(1);
    for (const int bucket : {0, 1}) {
      const std::vector<float> values = testing::random_leaf(comm.rank(), 512);
      std::copy(values.begin(), values.end(), sync.leaf(bucket).begin());
      sync.commit(bucket);
    }
    sync.end_pass();
    WireError coded, exact;
    sync.reduce(0, &coded);
    sync.reduce(1, &exact);
    EXPECT_GT(coded.squares, 0.0);
    EXPECT_GT(coded.error_squares, 1e-4 * coded.squares);
    EXPECT_LT(coded.error_squares, 0.1 * coded.squares);
    EXPECT_EQ(exact.squares, 0.0) << "a bucket that is never encoded is not compared";
    EXPECT_THROW(sync.reduce(0), Error) << "once a step";
  });
}

}  // namespace
}  // namespace qat::dist

// Gradients that travel as codes: how near their sums are, that nothing about the ranks changes their bits, and that
// what codes do not carry is not lost.
#include "dist/grad/grad_wire.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <string>
#include <vector>

#include "dist/comm/local_comm.h"
#include "dist/grad/error_feedback.h"
#include "dist/grad/grad_reducer.h"
#include "kernels/common/error.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist {
namespace {

using Values = std::vector<float>;

constexpr GradWire kFp32{};
constexpr GradWire kBf16{.format = WireFormat::kBFloat16};
constexpr GradWire kInt8{.format = WireFormat::kInt8, .block = 64};
constexpr GradWire kInt4{.format = WireFormat::kInt4, .block = 64};
constexpr GradWire kInt8TwoPhase{.format = WireFormat::kInt8, .sum = WireSum::kTwoPhase, .block = 64};
constexpr GradWire kInt4TwoPhase{.format = WireFormat::kInt4, .sum = WireSum::kTwoPhase, .block = 64};

std::string name(const GradWire& wire) {
  const char* const formats[] = {"fp32", "bf16", "int8", "int4"};
  return std::string(formats[static_cast<int>(wire.format)]) +
         (kernels::has_codes(wire.format) ? wire.sum == WireSum::kCodeSum ? " code_sum" : " two_phase" : "");
}

// In (-1, 1).
float moderate(int leaf, std::int64_t index) {
  const kernels::RngKey key{.seed = 21, .stream = static_cast<std::uint64_t>(leaf)};
  return 2.0F * kernels::uniform_at(key, static_cast<std::uint64_t>(index)) - 1.0F;
}
Values moderate_leaf(int leaf, std::int64_t elems) {
  Values values;
  for (std::int64_t i = 0; i < elems; ++i) values.push_back(moderate(leaf, i));
  return values;
}
// Sums of these show any change of order.
Values wild_leaf(int leaf, std::int64_t elems) { return testing::random_leaf(leaf, elems); }

// What rank `order[r]` of the usual order brings, brought by rank r; the whole sum, shard by shard from its owner.
// places: 0 for one level.
Values sum_over(const GradWire& wire, std::int64_t elems, const std::vector<int>& order, int places = 0,
                Values (*leaf)(int, std::int64_t) = wild_leaf) {
  Values sum(static_cast<std::size_t>(elems));
  run_local_ranks(static_cast<int>(order.size()), [&](Communicator& comm) {
    NodeGroups nodes;
    if (places > 0) nodes = make_node_groups(comm, places);
    const auto staging = std::make_shared<WireStaging>(host_flat_memory());
    GradReducer reducer(comm, elems, {.wire = wire, .nodes = places > 0 ? &nodes : nullptr, .staging = staging});
    for (int step = 0; step < 2; ++step) {  // the second with what the first left in the buffers
      Values full = leaf(order[static_cast<std::size_t>(comm.rank())], elems);
      reducer.reduce_scatter(full);
      std::copy(full.begin() + reducer.shard().begin, full.begin() + reducer.shard().end,
                sum.begin() + reducer.shard().begin);
    }
  });
  return sum;
}

std::vector<int> in_order(int ranks) {
  std::vector<int> order(static_cast<std::size_t>(ranks));
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// Of `ranks` contributions.
double relative_error(const Values& sum, int ranks) {
  double error = 0.0, all = 0.0;
  for (std::size_t i = 0; i < sum.size(); ++i) {
    double exact = 0.0;
    for (int rank = 0; rank < ranks; ++rank) exact += static_cast<double>(moderate(rank, static_cast<std::int64_t>(i)));
    error += (exact - sum[i]) * (exact - sum[i]);
    all += exact * exact;
  }
  return std::sqrt(error / all);
}

TEST(GradWire, SumsAreAsNearAsTheFormatAllows) {
  for (const int ranks : {2, 3, 4, 6, 8}) {
    const std::int64_t elems = 514 * ranks;  // the last block of a shard is short
    const auto error = [&](const GradWire& wire) {
      return relative_error(sum_over(wire, elems, in_order(ranks), 0, moderate_leaf), ranks);
    };
    EXPECT_LT(error(kFp32), 1e-6);
    EXPECT_LT(error(kBf16), 0.004);
    for (const GradWire& wire : {kInt8, kInt8TwoPhase}) {
      EXPECT_LT(error(wire), 0.01) << name(wire) << " on " << ranks;
      EXPECT_GT(error(wire), 1e-4) << name(wire) << " on " << ranks << ": these were not codes";
    }
    for (const GradWire& wire : {kInt4, kInt4TwoPhase}) {
      EXPECT_LT(error(wire), 0.2) << name(wire) << " on " << ranks;
      EXPECT_GT(error(wire), 1e-2) << name(wire) << " on " << ranks << ": these were not codes";
    }
  }
}

TEST(GradWire, SumsOfCodesDependOnNoOrderOfRanks) {
  for (const GradWire& wire : {kInt8, kInt4}) {
    for (const int ranks : {3, 4, 6, 8}) {
      const std::int64_t elems = 128 * ranks;
      std::vector<int> order = in_order(ranks);
      const Values expected = sum_over(wire, elems, order);
      std::reverse(order.begin(), order.end());
      EXPECT_EQ(testing::compare_bits(sum_over(wire, elems, order), expected), "equal");
      std::rotate(order.begin(), order.begin() + 1, order.end());
      std::swap(order[0], order[2]);
      EXPECT_EQ(testing::compare_bits(sum_over(wire, elems, order), expected), "equal");
    }
  }
}

TEST(GradWire, TwoLevelsHaveTheBitsOfOne) {
  for (const int ranks : {2, 4, 6, 8, 12}) {
    const std::int64_t elems = 128 * ranks;
    for (int places = 1; places <= ranks; ++places) {
      if (ranks % places != 0) continue;
      const bool power = (places & (places - 1)) == 0;
      for (const GradWire& wire : {kFp32, kInt8, kInt4}) {
        if (wire.is_exact() && !power) continue;
        EXPECT_EQ(testing::compare_bits(sum_over(wire, elems, in_order(ranks), places),
                                        sum_over(wire, elems, in_order(ranks))),
                  "equal")
            << name(wire) << ", " << ranks / places << " nodes of " << places;
      }
      for (const GradWire& wire : {kBf16, kInt8TwoPhase, kInt4TwoPhase})
        EXPECT_LT(relative_error(sum_over(wire, elems, in_order(ranks), places, moderate_leaf), ranks),
                  wire.format == WireFormat::kInt4 ? 0.25 : 0.015)
            << name(wire) << ", " << ranks / places << " nodes of " << places;
    }
  }
}

TEST(GradWire, NodesAreEquallyLarge) {
  run_local_ranks(6, [](Communicator& comm) { EXPECT_THROW((void)make_node_groups(comm, 4), Error); });
}

TEST(GradWire, StochasticRoundingIsRepeatableAndEveryRanksOwn) {
  // Two ranks with the same value half way between two codes: one of them rounds up, half of the time.
  run_local_ranks(2, [](Communicator& comm) {
    const auto staging = std::make_shared<WireStaging>(host_flat_memory());
    GradWire wire{.format = WireFormat::kInt8, .block = 2000, .stochastic = true};
    GradReducer reducer(comm, 4000, {.wire = wire, .staging = staging});
    Values full(4000, 0.5F);
    full[0] = full[2000] = 127.0F;
    Values again = full, other = full;
    reducer.reduce_scatter(full, {}, {.key = {.seed = 1, .stream = 2}});
    reducer.reduce_scatter(again, {}, {.key = {.seed = 1, .stream = 2}});
    reducer.reduce_scatter(other, {}, {.key = {.seed = 1, .stream = 3}});
    const auto begin = full.begin() + reducer.shard().begin, end = full.begin() + reducer.shard().end;
    EXPECT_TRUE(std::equal(begin, end, again.begin() + reducer.shard().begin));
    EXPECT_FALSE(std::equal(begin, end, other.begin() + reducer.shard().begin));
    EXPECT_NEAR(static_cast<double>(std::count(begin, end, 1.0F)), 1000.0, 5 * std::sqrt(500.0));
  });
}

TEST(GradWire, WhatIsNotFiniteReachesTheOwner) {
  for (const GradWire& wire : {kBf16, kInt8, kInt4, kInt8TwoPhase}) {
    for (const float bad : {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
      run_local_ranks(4, [&](Communicator& comm) {
        const auto staging = std::make_shared<WireStaging>(host_flat_memory());
        GradReducer reducer(comm, 4 * 128, {.wire = wire, .staging = staging});
        Values full(4 * 128, 1.0F);
        if (comm.rank() == 2) full[3 * 128 + 100] = bad;
        reducer.reduce_scatter(full);
        const auto shard = static_cast<std::size_t>(reducer.shard().begin);
        EXPECT_FLOAT_EQ(full[shard], 4.0F) << "the first block is not touched";
        EXPECT_EQ(std::isfinite(full[shard + 100]), comm.rank() != 3) << name(wire);
      });
    }
  }
}

TEST(GradWire, CountsWhatItSends) {
  run_local_ranks(4, [](Communicator& comm) {
    const NodeGroups nodes = make_node_groups(comm, 2);
    const auto staging = std::make_shared<WireStaging>(host_flat_memory());
    const auto sent = [&](const GradWire& wire, const NodeGroups* levels = nullptr) {
      return GradReducer(comm, 4 * 1024, {.wire = wire, .nodes = levels, .staging = staging}).sent_bytes();
    };
    EXPECT_EQ(sent(kFp32), 3 * 4096);
    EXPECT_EQ(sent(kBf16), 3 * 2048);
    EXPECT_EQ(sent(kInt8), 3 * (1024 + 2 * 64));  // scales there and back
    EXPECT_EQ(sent(kInt4TwoPhase), 3 * (512 + 64));
    EXPECT_EQ(sent(kFp32, &nodes), 2 * 4096 + 4096);
    EXPECT_EQ(sent(kInt8, &nodes), 2 * 1024 + 3 * 2 * 64 + 2048);
    EXPECT_EQ(GradReducer(comm, 4 * 1024, {.wire = kInt8, .staging = staging}).fp32_bytes(), 3 * 4096);
  });
}

TEST(GradWire, WhatCodesDoNotCarryIsAddedLater) {
  for (const GradWire& wire : {kBf16, kInt8, kInt4, kInt8TwoPhase, kInt4TwoPhase}) {
    for (const int ranks : {2, 3, 4}) {
      const std::int64_t elems = 130 * ranks;
      const FlatLayout layout(std::vector<std::int64_t>{elems}, {.pad_to = ranks});
      Values total(static_cast<std::size_t>(elems)), residuals(total.size());
      std::vector<double> exact(total.size());
      std::mutex adding;
      run_local_ranks(ranks, [&](Communicator& comm) {
        const auto staging = std::make_shared<WireStaging>(host_flat_memory());
        GradReducer reducer(comm, elems, {.wire = wire, .staging = staging});
        ErrorFeedback feedback(layout, comm.rank(), ranks, host_flat_memory());
        for (int step = 0; step < 20; ++step) {
          Values full = moderate_leaf(comm.rank() + ranks * step, elems);
          const Values given = full;
          reducer.reduce_scatter(full, feedback.of(0), {});
          if (step % 5 == 4) continue;  // a step that does not count leaves no trace
          feedback.commit(0, full);
          const std::lock_guard lock(adding);
          for (std::size_t i = 0; i < given.size(); ++i) exact[i] += given[i];
          for (std::int64_t i = reducer.shard().begin; i < reducer.shard().end; ++i)
            total[static_cast<std::size_t>(i)] += full[static_cast<std::size_t>(i)];
        }
        const std::lock_guard lock(adding);
        for (std::size_t i = 0; i < residuals.size(); ++i) residuals[i] += feedback.residual(0)[i];
      });
      double largest = 0.0;
      for (std::size_t i = 0; i < total.size(); ++i) {
        EXPECT_NEAR(total[i] + residuals[i], exact[i], 2e-5) << name(wire) << " on " << ranks;
        largest = std::max(largest, std::fabs(static_cast<double>(residuals[i])));
      }
      EXPECT_GT(largest, 1e-3) << name(wire) << ": nothing was left over";
    }
  }
}

TEST(GradWire, ARankAloneSendsNothingAndSpendsWhatMoreRanksLeft) {
  const std::unique_ptr<Communicator> comm = make_single_comm();
  const FlatLayout layout(std::vector<std::int64_t>{4}, {});
  GradReducer reducer(*comm, 4, {.wire = kInt8});
  ErrorFeedback feedback(layout, 0, 1, host_flat_memory());
  feedback.residual(0, /*make=*/true)[1] = 0.25F;
  Values full{1.0F, 2.0F, 3.0F, 4.0F};
  reducer.reduce_scatter(full, feedback.of(0));
  feedback.commit(0, full);
  EXPECT_EQ(full, (Values{1.0F, 2.25F, 3.0F, 4.0F}));
  EXPECT_EQ(feedback.residual(0)[1], 0.0F);
  EXPECT_EQ(reducer.sent_bytes(), 0);
}

}  // namespace
}  // namespace qat::dist

// What every backend must do at every size: bodies that all ranks of a group run, on whatever communicator they are
// given. Data are small integers, whose sums are exact in any order, except where the order itself is tested.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/comm/communicator.h"
#include "dist/control/step_plan.h"
#include "dist/grad/grad_reducer.h"
#include "dist/grad/tree_accumulator.h"
#include "dist/grid/process_grid.h"
#include "tests/dist/message_cases.h"
#include "tests/dist/permuted_ranks.h"
#include "tests/dist/random_leaves.h"

namespace qat::dist::testing {

struct CommunicatorCase {
  const char* name;
  void (*body)(Communicator&);
};

template <typename T>
void expect_reductions(Communicator& comm, std::int64_t elems) {
  const int size = comm.size();
  const auto fill = [&](int rank, std::int64_t i) { return static_cast<T>((rank + 1) * (i % 7) - rank); };
  std::vector<T> own;
  std::vector<T> sums;
  std::vector<T> maxima;
  std::vector<T> minima;
  for (std::int64_t i = 0; i < elems; ++i) {
    own.push_back(fill(comm.rank(), i));
    T sum = fill(0, i);
    T max = sum;
    T min = sum;
    for (int rank = 1; rank < size; ++rank) {
      sum = static_cast<T>(sum + fill(rank, i));
      max = std::max(max, fill(rank, i));
      min = std::min(min, fill(rank, i));
    }
    sums.push_back(sum);
    maxima.push_back(max);
    minima.push_back(min);
  }
  const auto reduced = [&](ReduceOp op) {
    std::vector<T> values = own;
    comm.all_reduce(view(values), op);
    return values;
  };
  if constexpr (sizeof(T) > 1) {
    EXPECT_EQ(reduced(ReduceOp::kSum), sums) << elems << " elements";
  }
  EXPECT_EQ(reduced(ReduceOp::kMax), maxima) << elems << " elements";
  EXPECT_EQ(reduced(ReduceOp::kMin), minima) << elems << " elements";
}

inline void all_reduce_combines_every_rank_for_every_dtype(Communicator& comm) {
  for (const std::int64_t elems : {0, 1, 3, 1000, 5003}) {
    expect_reductions<float>(comm, elems);
    expect_reductions<double>(comm, elems);
    expect_reductions<std::int32_t>(comm, elems);
    expect_reductions<std::int64_t>(comm, elems);
    expect_reductions<std::int8_t>(comm, elems);
    expect_reductions<std::uint8_t>(comm, elems);
  }
}

inline void sums_follow_the_balanced_tree_to_the_bit(Communicator& comm) {
  for (const std::int64_t elems : {1, 5, 1000, 20011}) {
    std::vector<float> values = random_leaf(comm.rank(), elems);
    comm.all_reduce(view(values), ReduceOp::kSum);
    std::vector<float> expected;
    for (std::int64_t i = 0; i < elems; ++i) expected.push_back(tree_of_random(0, comm.size(), i));
    EXPECT_EQ(compare_bits(values, expected), "equal") << elems << " elements";
  }
}

inline void reduce_scatter_equals_the_block_of_all_reduce(Communicator& comm) {
  for (const std::int64_t block : {0, 1, 700, 5003}) {
    std::vector<float> whole = random_leaf(comm.rank(), block * comm.size());
    const std::vector<float> in = whole;
    comm.all_reduce(view(whole), ReduceOp::kSum);
    const auto begin = whole.begin() + comm.rank() * block;
    const std::vector<float> expected(begin, begin + block);

    std::vector<float> out(static_cast<std::size_t>(block));
    comm.reduce_scatter(view(in), view(out), ReduceOp::kSum);
    EXPECT_EQ(compare_bits(out, expected), "equal");

    std::vector<float> in_place = in;
    const std::span<float> own(in_place.data() + comm.rank() * block, static_cast<std::size_t>(block));
    comm.reduce_scatter(view(in_place), view(own), ReduceOp::kSum);
    EXPECT_EQ(compare_bits({own.begin(), own.end()}, expected), "equal") << "in place";
  }
}

inline void all_gather_places_every_block_by_rank(Communicator& comm) {
  for (const std::int64_t block : {0, 1, 900, 5003}) {
    std::vector<std::int32_t> expected;
    for (int rank = 0; rank < comm.size(); ++rank) {
      for (std::int64_t i = 0; i < block; ++i) expected.push_back(static_cast<std::int32_t>(10000 * rank + i));
    }
    const auto begin = expected.begin() + comm.rank() * block;
    const std::vector<std::int32_t> own(begin, begin + block);
    std::vector<std::int32_t> out(expected.size(), -1);
    comm.all_gather(view(own), view(out));
    EXPECT_EQ(out, expected);

    std::vector<std::int32_t> in_place(expected.size(), -1);
    const std::span<std::int32_t> mine(in_place.data() + comm.rank() * block, static_cast<std::size_t>(block));
    std::copy(own.begin(), own.end(), mine.begin());
    comm.all_gather(view(mine), view(in_place));
    EXPECT_EQ(in_place, expected) << "in place";
  }
}

inline void broadcast_takes_any_root(Communicator& comm) {
  for (int root = 0; root < comm.size(); ++root) {
    std::vector<double> values(3001, comm.rank());
    comm.broadcast(view(values), root);
    EXPECT_EQ(values, std::vector<double>(3001, root));
  }
}

inline void split_makes_independent_groups_ordered_by_key(Communicator& comm) {
  const int color = comm.rank() % 2;
  const std::unique_ptr<Communicator> part = comm.split(color, /*key=*/-comm.rank());  // backwards
  const int members = (comm.size() + 1 - color) / 2;
  ASSERT_EQ(part->size(), members);
  EXPECT_EQ(part->rank(), members - 1 - comm.rank() / 2);
  std::vector<std::int32_t> sum{comm.rank()};
  part->all_reduce(view(sum), ReduceOp::kSum);
  std::int32_t expected = 0;
  for (int rank = color; rank < comm.size(); rank += 2) expected += rank;
  EXPECT_EQ(sum[0], expected);
  // The parent still works, and so does a second split of the same colors.
  const std::unique_ptr<Communicator> again = comm.split(color, /*key=*/0);
  EXPECT_EQ(again->rank(), comm.rank() / 2);
  comm.barrier();
}

inline void a_nan_on_one_rank_is_the_maximum_and_minimum_of_all(Communicator& comm) {
  for (int culprit = 0; culprit < comm.size(); ++culprit) {
    std::vector<float> high(2, static_cast<float>(comm.rank()));
    if (comm.rank() == culprit) high[1] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> low = high;
    comm.all_reduce(view(high), ReduceOp::kMax);
    comm.all_reduce(view(low), ReduceOp::kMin);
    EXPECT_EQ(high[0], static_cast<float>(comm.size() - 1));
    EXPECT_EQ(low[0], 0.0F);
    EXPECT_TRUE(std::isnan(high[1])) << "NaN on rank " << culprit;
    EXPECT_TRUE(std::isnan(low[1])) << "NaN on rank " << culprit;
  }
}

inline void what_cannot_be_summed_is_refused_on_every_rank(Communicator& comm) {
  std::vector<std::int8_t> bytes(4);
  EXPECT_THROW(comm.all_reduce(view(bytes), ReduceOp::kSum), Error);
  std::vector<std::uint8_t> storage(8);
  EXPECT_THROW(comm.all_reduce({storage.data(), 4, DType::kBFloat16, Device::kCpu}, ReduceOp::kSum), Error);
  std::vector<float> in(3);
  std::vector<float> out(3 * static_cast<std::size_t>(comm.size()) + 1);
  EXPECT_THROW(comm.all_gather(view(in), view(out)), Error) << "sizes do not fit";
  EXPECT_THROW(comm.broadcast(view(in), comm.size()), Error) << "no such root";
  comm.barrier();  // nobody was left waiting
}

inline void strings_of_any_length_are_gathered_and_broadcast(Communicator& comm) {
  const auto text = [](int rank) {
    return std::string(static_cast<std::size_t>(rank * 37), static_cast<char>('a' + rank));
  };
  const std::vector<std::string> all = gather_strings(comm, text(comm.rank()));
  ASSERT_EQ(static_cast<int>(all.size()), comm.size());
  for (int rank = 0; rank < comm.size(); ++rank) EXPECT_EQ(all[static_cast<std::size_t>(rank)], text(rank));
  const int root = comm.size() - 1;
  EXPECT_EQ(broadcast_string(comm, text(comm.rank()), root), text(root));
  EXPECT_EQ(broadcast_string(comm, comm.rank() == 0 ? "" : "mine", 0), "");
}

inline Error agreed_error(Communicator& comm, const RankReport& report, const char* what) {
  try {
    agree(comm, report, what);
  } catch (const AgreedError& error) {
    return error;
  }
  ADD_FAILURE() << "agree() did not throw";
  return {ErrorKind::kInternal, ""};
}

inline void agree_passes_when_all_ranks_are_well_and_equal(Communicator& comm) {
  EXPECT_NO_THROW(agree(comm, {.hash = 0xfeedULL << 48}, "configuration"));
}

inline void agree_gives_every_rank_the_lowest_failing_ranks_error(Communicator& comm) {
  const int size = comm.size();
  const std::string last = std::to_string(size - 1);
  RankReport report;
  if (comm.rank() == size - 1) report = {.ok = false, .exit_code = 3, .message = "no such file: tokens.bin"};
  const Error one = agreed_error(comm, report, "configuration");
  EXPECT_EQ(one.kind(), ErrorKind::kData);
  EXPECT_EQ(one.what(), (size == 1 ? "" : "rank " + last + " only: ") + std::string("no such file: tokens.bin"));

  const Error all = agreed_error(comm, {.ok = false, .exit_code = 2, .message = "bad key"}, "configuration");
  EXPECT_EQ(all.kind(), ErrorKind::kConfig);
  const std::string ranks = size == 1 ? "" : size == 2 ? " (on ranks 0, 1)" : " (on ranks 0-" + last + ")";
  EXPECT_EQ(all.what(), "bad key" + ranks);

  if (size < 4) return;
  // Ranks 1 and 3 fail in one way, the others from 2 on in another: kind of the lowest, both messages.
  report = {.ok = comm.rank() == 0, .exit_code = 3, .message = "short file"};
  if (comm.rank() % 2 == 0) report.exit_code = 5, report.message = "out of memory";
  const std::string text = agreed_error(comm, report, "x").what();
  EXPECT_EQ(agreed_error(comm, report, "x").kind(), ErrorKind::kData);
  EXPECT_NE(text.find(size == 4 ? "ranks 1, 3: short file" : "ranks 1, 3, 5, 7: short file"), std::string::npos)
      << text;
  EXPECT_NE(text.find(size == 4 ? "rank 2 only: out of memory" : "ranks 2, 4, 6: out of memory"), std::string::npos)
      << text;
}

inline void agree_names_the_ranks_whose_hash_differs(Communicator& comm) {
  if (comm.size() == 1) return;
  const int culprit = comm.size() - 1;
  const Error error = agreed_error(comm, {.hash = comm.rank() == culprit ? 17U : 16U}, "configuration");
  EXPECT_EQ(error.kind(), ErrorKind::kConfig);
  const std::string text = error.what();
  EXPECT_NE(
      text.find("configuration is not the same on all ranks: rank " + std::to_string(culprit) + " differs from rank 0"),
      std::string::npos)
      << text;
  comm.barrier();
}

inline void every_rank_obeys_the_step_plan_of_rank_0(Communicator& comm) {
  StepPlan mine{.step = 41, .config_hash = 99};
  const StepPlan of_rank_0{.step = 41,
                           .config_hash = 99,
                           .maps = {{5, 6, 7}, {32, 32, 32}},
                           .updates = {{.passes = {{.map = 1}, {.map = 0}}, .learning_rate = 0.25F}},
                           .checkpoint_after = true};
  if (comm.rank() == 0) mine = of_rank_0;
  EXPECT_EQ(exchange_step_plan(comm, mine), of_rank_0);

  mine.step += static_cast<std::uint64_t>(comm.rank());
  if (comm.rank() == 0) {
    EXPECT_NO_THROW(exchange_step_plan(comm, mine));
  } else {
    try {
      exchange_step_plan(comm, mine);
      ADD_FAILURE() << "a plan for another step was accepted";
    } catch (const Error& error) {
      const std::string own = "step " + std::to_string(41 + comm.rank());
      EXPECT_NE(std::string(error.what()).find(own), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find("step 41"), std::string::npos) << error.what();
    }
  }
  mine.step = 41;
  mine.config_hash += static_cast<std::uint64_t>(comm.rank());
  if (comm.rank() != 0)
    EXPECT_THROW(exchange_step_plan(comm, mine), Error) << "another configuration";
  else
    EXPECT_NO_THROW(exchange_step_plan(comm, mine));
}

// 8 leaves, cut over however many ranks there are: the promise that the sum does not depend on it.
inline void eight_leaves_give_the_same_bits_on_any_number_of_ranks(Communicator& comm) {
  constexpr std::int64_t kElems = 4001;
  const int leaves = 8 / comm.size();
  if (leaves * comm.size() != 8) return;
  TreeAccumulator accumulator(kElems);
  for (int leaf = 0; leaf < leaves; ++leaf) {
    const std::vector<float> values = random_leaf(comm.rank() * leaves + leaf, kElems);
    std::copy(values.begin(), values.end(), accumulator.next().begin());
    accumulator.commit();
  }
  const std::span<float> total = accumulator.result();
  comm.all_reduce(view(total), ReduceOp::kSum);
  std::vector<float> expected;
  for (std::int64_t i = 0; i < kElems; ++i) expected.push_back(tree_of_random(0, 8, i));
  EXPECT_EQ(compare_bits({total.begin(), total.end()}, expected), "equal");
}

inline void sharded_reduction_and_gather_equal_an_all_reduce(Communicator& comm) {
  GradReducer reducer(comm, /*elems=*/750 * comm.size());
  EXPECT_EQ(reducer.shard().begin, comm.rank() * 750);
  EXPECT_EQ(reducer.shard().size(), 750);
  std::vector<float> full = random_leaf(comm.rank(), reducer.elems());
  std::vector<float> expected = full;
  comm.all_reduce(view(expected), ReduceOp::kSum);
  reducer.reduce_scatter(full);
  comm.all_gather(view(std::span<const float>(full).subspan(static_cast<std::size_t>(reducer.shard().begin), 750)),
                  view(full));
  EXPECT_EQ(compare_bits(full, expected), "equal");
}

// Gradients as int8 codes, with scales that the ranks agree on: every rank's shard is within half a step of each rank.
inline void sums_of_codes_are_within_the_bound(Communicator& comm) {
  const std::int64_t elems = 300 * comm.size();
  constexpr std::int64_t kBlock = 128;
  GradReducer reducer(comm, elems,
                      {.wire = {.format = WireFormat::kInt8, .block = kBlock},
                       .staging = std::make_shared<WireStaging>(host_flat_memory())});
  std::vector<float> full = random_leaf(comm.rank(), elems);
  reducer.reduce_scatter(full);
  for (std::int64_t begin = reducer.shard().begin; begin < reducer.shard().end; begin += kBlock) {
    const std::int64_t end = std::min(reducer.shard().end, begin + kBlock);
    float amax = 0.0F;
    for (std::int64_t i = begin; i < end; ++i)
      for (int rank = 0; rank < comm.size(); ++rank) amax = std::max(amax, std::fabs(random_float(rank, i)));
    const double bound = comm.size() == 1 ? 0.0 : 0.5001 * comm.size() * static_cast<double>(amax) / 127;
    for (std::int64_t i = begin; i < end; ++i) {
      double exact = 0.0;
      for (int rank = 0; rank < comm.size(); ++rank) exact += static_cast<double>(random_float(rank, i));
      EXPECT_NEAR(full[static_cast<std::size_t>(i)], exact, bound) << "element " << i;
    }
  }
}

inline void grid_groups_join_equal_stages_and_equal_replicas(Communicator& comm) {
  const int pipeline = comm.size() % 2 == 0 ? 2 : 1;
  const ProcessGrid grid = ProcessGrid::make(comm.size(), comm.rank(), /*data=*/0, pipeline);
  const GridGroups groups = make_groups(grid, comm);
  EXPECT_EQ(groups.data->size(), comm.size() / pipeline);
  EXPECT_EQ(groups.data->rank(), grid.data_rank());
  EXPECT_EQ(groups.pipeline->size(), pipeline);
  EXPECT_EQ(groups.pipeline->rank(), grid.stage());
  std::vector<std::int32_t> stage{grid.stage()};
  groups.data->all_reduce(view(stage), ReduceOp::kMax);
  EXPECT_EQ(stage[0], grid.stage());
  std::vector<std::int32_t> replica{grid.data_rank()};
  groups.pipeline->all_reduce(view(replica), ReduceOp::kMax);
  EXPECT_EQ(replica[0], grid.data_rank());
}

inline const std::vector<CommunicatorCase>& communicator_cases() {
  static const std::vector<CommunicatorCase> cases{
      {"AllReduceCombinesEveryRankForEveryDtype", all_reduce_combines_every_rank_for_every_dtype},
      {"SumsFollowTheBalancedTreeToTheBit", sums_follow_the_balanced_tree_to_the_bit},
      {"ReduceScatterEqualsTheBlockOfAllReduce", reduce_scatter_equals_the_block_of_all_reduce},
      {"AllGatherPlacesEveryBlockByRank", all_gather_places_every_block_by_rank},
      {"BroadcastTakesAnyRoot", broadcast_takes_any_root},
      {"MessagesArriveBySourceAndTagInOrder", messages_arrive_by_source_and_tag_in_order},
      {"TwoOppositeMessagesOf64MibPassEachOther", two_opposite_messages_of_64_mib_pass_each_other},
      {"ExchangesGoRoundTheRingInBothDirections", exchanges_go_round_the_ring_in_both_directions},
      {"AnExchangeFindsItsMessagesByTag", an_exchange_finds_its_messages_by_tag},
      {"ARankMaySendToItself", a_rank_may_send_to_itself},
      {"EmptyMessagesAndEmptyExchangesAreNothingSpecial", empty_messages_and_empty_exchanges_are_nothing_special},
      {"AnExchangeMeetsSendsAndReceives", an_exchange_meets_sends_and_receives},
      {"AnExchangeWithAWrongMessageSendsNothing", an_exchange_with_a_wrong_message_sends_nothing},
      {"AllToAllHandsEveryRankItsBlockOfEveryOther", all_to_all_hands_every_rank_its_block_of_every_other},
      {"AllToAllRefusesBlocksThatDoNotFit", all_to_all_refuses_blocks_that_do_not_fit},
      {"SplitMakesIndependentGroupsOrderedByKey", split_makes_independent_groups_ordered_by_key},
      {"ANanOnOneRankIsTheMaximumAndMinimumOfAll", a_nan_on_one_rank_is_the_maximum_and_minimum_of_all},
      {"WhatCannotBeSummedIsRefusedOnEveryRank", what_cannot_be_summed_is_refused_on_every_rank},
      {"StringsOfAnyLengthAreGatheredAndBroadcast", strings_of_any_length_are_gathered_and_broadcast},
      {"AgreePassesWhenAllRanksAreWellAndEqual", agree_passes_when_all_ranks_are_well_and_equal},
      {"AgreeGivesEveryRankTheLowestFailingRanksError", agree_gives_every_rank_the_lowest_failing_ranks_error},
      {"AgreeNamesTheRanksWhoseHashDiffers", agree_names_the_ranks_whose_hash_differs},
      {"EveryRankObeysTheStepPlanOfRank0", every_rank_obeys_the_step_plan_of_rank_0},
      {"EightLeavesGiveTheSameBitsOnAnyNumberOfRanks", eight_leaves_give_the_same_bits_on_any_number_of_ranks},
      {"ShardedReductionAndGatherEqualAnAllReduce", sharded_reduction_and_gather_equal_an_all_reduce},
      {"SumsOfCodesAreWithinTheBound", sums_of_codes_are_within_the_bound},
      {"SumsOfCodesHaveTheSameBitsWhateverTheRanksOrder", sums_of_codes_have_the_same_bits_whatever_the_ranks_order},
      {"GridGroupsJoinEqualStagesAndEqualReplicas", grid_groups_join_equal_stages_and_equal_replicas},
  };
  return cases;
}

}  // namespace qat::dist::testing

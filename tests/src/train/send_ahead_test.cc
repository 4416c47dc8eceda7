// What the next pass reads is sent before it begins: the same bits, nothing twice, no more memory than that of two
// passes, and the same calls on every rank whatever happens to one of them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <mutex>
#include <new>
#include <set>

#include "tests/support/planned_widths.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::kManyWidths;
using test::plan_of;
using test::TinyModel;
using test::TinyRank;
using Steps = std::vector<test::StepWidths>;

TinyModel switchable() {
  TinyModel spec;
  spec.quant.widths = {2, 4, 8, 32};
  spec.lora.slots = spec.config.norm_slots = Slots::kPerWidth;
  return spec;
}

struct Way {
  bool ahead = false, beside = false;
  WeightsName weights = WeightsName::kCodes;
};

StepRunnerOptions options_of(const Way& way) {
  StepRunnerOptions options = test::tiny_options();
  options.comm.overlap = way.ahead || way.beside;
  options.comm.weights = way.weights;
  options.beside_on_cpus = way.beside;
  return options;
}

struct Trained {
  std::vector<double> losses, norms;
  std::vector<float> parameters;
  std::int64_t weight_bytes = 0;  // of rank 0
};

Trained train(int ranks, const Way& way) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens();
  Trained out;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    TinyModel spec = switchable();
    TinyRank rank(spec, tokens, comm, options_of(way));
    Trained mine;
    for (std::size_t step = 0; step < kManyWidths.size(); ++step) {
      const StepOutcome outcome = rank.run(plan_of(kManyWidths, step, way.ahead));
      mine.losses.push_back(outcome.loss), mine.norms.push_back(outcome.grad_norm);
      mine.weight_bytes += outcome.wire.weight_bytes;
      EXPECT_GE(outcome.wire.weight_seconds, 0.0);
    }
    mine.parameters = rank.parameters();
    if (comm.rank() == 0) out = mine;
  });
  return out;
}

TEST(SendAhead, ChangesNoBitAndSendsNothingTwice) {
  for (const WeightsName weights : {WeightsName::kCodes, WeightsName::kFp32}) {
    for (const int ranks : {2, 4}) {
      const Trained late = train(ranks, {.weights = weights});
      for (const bool beside : {false, true}) {
        for (const bool ahead : {false, true}) {
          SCOPED_TRACE(testing::Message() << ranks << " ranks, beside " << beside << ", ahead " << ahead);
          const Trained early = train(ranks, {.ahead = ahead, .beside = beside, .weights = weights});
          EXPECT_EQ(early.losses, late.losses);
          EXPECT_EQ(early.norms, late.norms);
          EXPECT_EQ(early.parameters, late.parameters);
          EXPECT_EQ(early.weight_bytes, late.weight_bytes);
        }
      }
    }
  }
}

// Of single widths' groups, those that have memory.
std::set<int> widths_held(const ParameterStore& store) {
  std::set<int> held;
  for (const FlatGroup& group : store.groups())
    if (group.is_sharded() && group.values.storage().nbytes() > 0) held.insert(group.key.bits);
  return held;
}

using HeldInTurn = std::vector<std::set<int>>;

// While each pass of a step goes backward, and after it.
HeldInTurn held_in(TinyRank& rank, const dist::StepPlan& plan) {
  HeldInTurn held;
  rank.runner().set_gradient_hook([&](std::int64_t, std::int64_t, int, const at::Tensor&) {
    const std::set<int> now = widths_held(rank.model().parameters());
    if (held.empty() || held.back() != now) held.push_back(now);
  });
  rank.run(plan);
  rank.runner().set_gradient_hook({});
  held.push_back(widths_held(rank.model().parameters()));
  return held;
}

TEST(SendAhead, HoldsWhatAPassUsesAndTheNextOne) {
  const TokenSource tokens = test::tiny_tokens();
  const Steps run = {{{8}}, {{4}}, {{2, 8}, {4}}, {{4}}};
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec = switchable();
    TinyRank beside(spec, tokens, comm, options_of({.beside = true}));
    EXPECT_EQ(held_in(beside, plan_of(run, 0, true)), (HeldInTurn{{4, 8}, {4}}));
    EXPECT_EQ(held_in(beside, plan_of(run, 1, true)), (HeldInTurn{{2, 4}, {2}}));
    EXPECT_EQ(held_in(beside, plan_of(run, 2, true)), (HeldInTurn{{2, 8}, {4, 8}, {4}, {4}}));
    EXPECT_EQ(held_in(beside, plan_of(run, 3, true)), (HeldInTurn{{4}, {4}}));
    // Where nothing goes beside computing, only what comes next takes the place of what has been used.
    TinyRank after(spec, tokens, comm, options_of({.ahead = true}));
    EXPECT_EQ(held_in(after, plan_of(run, 0, true)), (HeldInTurn{{8}, {4}}));
    EXPECT_EQ(held_in(after, plan_of(run, 1, true)), (HeldInTurn{{4}, {2}}));
    TinyRank late(spec, tokens, comm, options_of({}));
    EXPECT_EQ(held_in(late, plan_of(run, 0, true)), (HeldInTurn{{8}, {8}}));
  });
}

TEST(SendAhead, WhatTheNextStepReadsIsOnItsWayWhenAStepEnds) {
  const TokenSource tokens = test::tiny_tokens();
  const Steps run = {{{8}}, {{4}}};
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec = switchable();
    TinyRank rank(spec, tokens, comm, options_of({.beside = true}));
    const ParameterStore& store = rank.model().parameters();
    const auto on_its_way = [&](const std::string& name) { return store.is_on_its_way(store.find(name)); };
    rank.run(plan_of(run, 0, true));
    EXPECT_TRUE(on_its_way("transformer.h.0.attn.c_attn.weight"));
    EXPECT_TRUE(on_its_way("transformer.h.1.mlp.c_proj.weight"));
    const std::int64_t bytes = rank.run(plan_of(run, 1, true)).wire.weight_bytes;
    EXPECT_FALSE(on_its_way("transformer.h.1.mlp.c_proj.weight")) << "nothing is known of the next step";
    EXPECT_GT(bytes, 0);
  });
}

// A step that is skipped, and one in which memory does not suffice on one rank, between others.
TEST(SendAhead, AllRanksSendTheSameWhateverHappensToOneOfThem) {
  const TokenSource tokens = test::tiny_tokens();
  const Steps run = {{{8}}, {{4}}, {{2, 8}, {4}}, {{8}}, {{4}}};
  const auto train_through = [&](const Way& way) {
    std::vector<float> parameters;
    dist::run_local_ranks(2, [&](dist::Communicator& comm) {
      TinyModel spec = switchable();
      StepRunnerOptions options = options_of(way);
      options.train.on_out_of_memory = OnOutOfMemory::kSmallerMicroBatch;
      TinyRank rank(spec, tokens, comm, options);
      StepRunner& runner = rank.runner();
      runner.set_loss_hook(
          [](std::int64_t step, double loss) { return step == 1 ? std::numeric_limits<double>::quiet_NaN() : loss; });
      runner.set_gradient_hook([&](std::int64_t step, std::int64_t micro_batch, int, const at::Tensor&) {
        if (step == 2 && micro_batch >= 4 && runner.micro_batch_size() == 2) throw std::bad_alloc();
      });
      for (std::size_t step = 0; step < run.size(); ++step) {
        const dist::StepPlan plan = plan_of(run, step, way.ahead);
        StepOutcome outcome = rank.run(plan);
        EXPECT_EQ(outcome.skipped, step == 1);
        EXPECT_EQ(outcome.abandoned, step == 2);
        if (!outcome.abandoned) continue;
        EXPECT_THAT(outcome.out_of_memory, testing::ElementsAre(1));
        runner.set_micro_batch_size(1);
        outcome = rank.run(plan, outcome);
        EXPECT_EQ(outcome.updates.size(), 2U);
      }
      std::vector<float> mine = rank.parameters();
      if (comm.rank() == 0) parameters = std::move(mine);
    });
    return parameters;
  };
  const std::vector<float> late = train_through({});
  EXPECT_EQ(train_through({.ahead = true}), late);
  EXPECT_EQ(train_through({.ahead = true, .beside = true}), late);
}

}  // namespace
}  // namespace qat

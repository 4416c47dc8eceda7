// Steps of several passes and several updates.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <mutex>
#include <new>
#include <utility>

#include "src/train/step_runner.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// With unquantized gradients and no dropout nothing is drawn, so that steps can be compared with others' passes.
const std::vector<dist::PlannedWidths> kMaps = {{8, 8, 32}, {3, 3, 32}, {32, 32, 32}};

dist::StepPlan passes(std::vector<dist::PassPlan> list, std::uint64_t step = 0) {
  return {.step = step, .maps = kMaps, .updates = {{.passes = std::move(list), .learning_rate = 1e-2F}}};
}

dist::StepPlan updates(const std::vector<std::uint32_t>& maps, std::uint64_t step = 0) {
  dist::StepPlan plan{.step = step, .maps = kMaps};
  for (const std::uint32_t map : maps) plan.updates.push_back({.passes = {{.map = map}}, .learning_rate = 1e-2F});
  return plan;
}

struct OneRank {
  OneRank(dist::Communicator& comm, const StepRunnerOptions& options) : rank(spec, tokens, comm, options) {}
  TokenSource tokens = test::tiny_tokens();
  TinyModel spec;
  TinyRank rank;
};

std::vector<PrecisionMap> maps_of(const OneRank& run) {
  std::vector<PrecisionMap> maps;
  for (const dist::PlannedWidths& map : kMaps)
    maps.push_back(PrecisionMap::uniform(run.spec.config.linears(), map.weight_bits, map.activation_bits, 32));
  return maps;
}

StepRunnerOptions unclipped() {
  at::set_num_threads(1);
  StepRunnerOptions options = test::tiny_options();
  options.optim.clip_norm = 0.0;
  return options;
}

// AdamW's first moment after one step: a tenth of the gradient.
std::vector<float> moment_after(const dist::StepPlan& plan) {
  const auto comm = dist::make_single_comm();
  OneRank run(*comm, unclipped());
  run.rank.run(plan);
  const auto moment = run.rank.runner().optimizer().exp_avg();
  return {moment.begin(), moment.end()};
}

TEST(StepUpdates, PassesOfAnUpdateAddUpByTheirWeights) {
  const std::vector<float> low = moment_after(passes({{.map = 1}})), high = moment_after(passes({{.map = 0}}));
  EXPECT_NE(low, high);
  const std::vector<float> both =
      moment_after(passes({{.map = 0, .loss = {.cross_entropy = 0.25}}, {.map = 1, .loss = {.cross_entropy = 0.75}}}));
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < both.size(); ++i) {
    error = std::max(error, std::abs(static_cast<double>(both[i]) - (0.25 * high[i] + 0.75 * low[i])));
    size = std::max(size, std::abs(static_cast<double>(both[i])));
  }
  EXPECT_LT(error, 1e-6 * size);
}

TEST(StepUpdates, TheLossIsThatOfThePassesByTheirWeights) {
  const auto comm = dist::make_single_comm();
  OneRank run(*comm, unclipped());
  const StepOutcome outcome =
      run.rank.run(passes({{.map = 0, .loss = {.cross_entropy = 0.5}}, {.map = 2, .loss = {.cross_entropy = 2.0}}}));
  ASSERT_EQ(outcome.updates.size(), 1U);
  OneRank eight(*comm, unclipped()), full(*comm, unclipped());
  const double at_eight = eight.rank.run(passes({{.map = 0}})).loss, at_full = full.rank.run(passes({{.map = 2}})).loss;
  ASSERT_EQ(outcome.updates[0].losses.size(), 2U);
  EXPECT_EQ(outcome.updates[0].losses[0].cross_entropy, at_eight);
  EXPECT_EQ(outcome.updates[0].losses[1].cross_entropy, at_full);
  EXPECT_EQ(outcome.loss, 0.5 * at_eight + 2.0 * at_full);
}

TEST(StepUpdates, UpdatesOfAStepAreStepsOnTheSameSamples) {
  const auto comm = dist::make_single_comm();
  OneRank together(*comm, unclipped()), apart(*comm, unclipped());
  const StepOutcome outcome = together.rank.run(updates({0, 1, 2, 0}));
  ASSERT_EQ(outcome.updates.size(), 4U);
  double sum = 0.0, largest = 0.0;
  for (std::size_t i = 0; i < 4; ++i) {
    const StepOutcome one = apart.rank.run(updates({i == 3 ? 0U : static_cast<std::uint32_t>(i)}));
    EXPECT_EQ(outcome.updates[i].loss, one.loss) << i;
    EXPECT_EQ(outcome.updates[i].grad_norm, one.grad_norm) << i;
    sum += one.loss, largest = std::max(largest, one.grad_norm);
  }
  EXPECT_EQ(outcome.loss, sum / 4);
  EXPECT_EQ(outcome.grad_norm, largest);
  EXPECT_EQ(together.rank.parameters(), apart.rank.parameters());
}

struct LossCurve {
  std::vector<double> losses;
  std::vector<float> parameters;
  bool operator==(const LossCurve&) const = default;
};
LossCurve train_plan(int ranks, const std::function<dist::StepPlan(std::uint64_t)>& plan) {
  LossCurve curve;
  std::mutex mutex;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    OneRank run(comm, unclipped());
    std::vector<double> losses;
    for (std::uint64_t step = 0; step < 4; ++step)
      for (const UpdateOutcome& update : run.rank.run(plan(step)).updates)
        for (const PassLosses& pass : update.losses) losses.push_back(pass.cross_entropy);
    std::vector<float> parameters = run.rank.parameters();
    const std::lock_guard lock(mutex);
    if (comm.rank() == 0) curve = {losses, std::move(parameters)};
  });
  return curve;
}

TEST(StepUpdates, UpdatesOfOnePassHaveTheSameBitsOnAnyNumberOfRanks) {
  const auto plan = [](std::uint64_t step) { return updates({1, 0}, step); };
  const LossCurve one = train_plan(1, plan);
  EXPECT_EQ(one.losses.size(), 8U);
  for (const int ranks : {2, 4}) EXPECT_EQ(train_plan(ranks, plan), one) << ranks << " ranks";
}

// The ranks continue a tree over all passes of each, so that of several passes the gradient is equal to rounding.
TEST(StepUpdates, UpdatesOfSeveralPassesAgreeToRounding) {
  const auto plan = [](std::uint64_t step) {
    return passes({{.map = 0, .loss = {.cross_entropy = 0.5}}, {.map = 2, .loss = {.cross_entropy = 0.5}}}, step);
  };
  const LossCurve one = train_plan(1, plan);
  for (const int ranks : {2, 4}) {
    const LossCurve many = train_plan(ranks, plan);
    EXPECT_EQ(many, train_plan(ranks, plan));
    ASSERT_EQ(many.losses.size(), 8U);
    for (std::size_t i = 0; i < 8; ++i)
      EXPECT_NEAR(many.losses[i], one.losses[i], i < 2 ? 0.0 : 2e-3) << ranks << " ranks, " << i;
  }
}

TEST(StepUpdates, ThreadsChangeNoBit) {
  const auto comm = dist::make_single_comm();
  const dist::StepPlan plan = passes({{.map = 0}, {.map = 1, .loss = {.cross_entropy = 0.5}}});
  std::vector<float> expected;
  for (const int threads : {1, 3}) {
    StepRunnerOptions options = unclipped();
    options.threads = threads;
    OneRank run(*comm, options);
    run.rank.run(plan);
    if (expected.empty()) expected = run.rank.parameters();
    EXPECT_EQ(run.rank.parameters(), expected);
  }
}

// Two passes at one width over the same samples, and an update after them: each rounds and drops by its own draws.
TEST(StepUpdates, EveryPassOfAStepHasDrawsOfItsOwn) {
  const auto comm = dist::make_single_comm();
  for (const double dropout : {0.0, 0.2}) {
    StepRunnerOptions options = unclipped();
    options.stochastic_gradients = dropout == 0.0;
    TokenSource tokens = test::tiny_tokens();
    TinyModel spec;
    spec.config.resid_dropout = dropout;
    TinyRank rank(spec, tokens, *comm, options);
    std::vector<std::vector<float>> gradients;
    const int id = rank.model().linears()[0].spec().weight;
    rank.runner().set_gradient_hook([&](std::int64_t, std::int64_t micro_batch, int of, const at::Tensor& gradient) {
      if (micro_batch != 0 || of != id) return;
      const at::Tensor flat = gradient.contiguous();
      gradients.emplace_back(flat.const_data_ptr<float>(), flat.const_data_ptr<float>() + flat.numel());
    });
    const int bits = dropout == 0.0 ? 4 : 32;
    rank.run({.maps = {{8, 8, bits}},
              .updates = {{.passes = {{.map = 0}, {.map = 0}}, .learning_rate = 0.0F},
                          {.passes = {{.map = 0}}, .learning_rate = 0.0F}}});
    ASSERT_EQ(gradients.size(), 3U);
    EXPECT_NE(gradients[0], gradients[1]) << dropout;
    EXPECT_NE(gradients[0], gradients[2]) << dropout;
    EXPECT_NE(gradients[1], gradients[2]) << dropout;
  }
}

TEST(StepUpdates, AnUpdateThatIsSkippedChangesNothingAndTheNextGoesOn) {
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    OneRank run(comm, unclipped()), without(comm, unclipped());
    int calls = 0;
    run.rank.runner().set_loss_hook([&](std::int64_t, double loss) { return ++calls == 2 ? std::nan("") : loss; });
    const StepOutcome outcome = run.rank.run(updates({0, 1, 2}));
    ASSERT_EQ(outcome.updates.size(), 3U);
    EXPECT_FALSE(outcome.updates[0].skipped);
    EXPECT_TRUE(outcome.updates[1].skipped);
    EXPECT_FALSE(outcome.updates[2].skipped);
    EXPECT_FALSE(outcome.skipped) << "parameters have changed";
    without.rank.run(updates({0, 2}));
    EXPECT_EQ(run.rank.parameters(), without.rank.parameters());

    run.rank.runner().set_loss_hook([](std::int64_t, double) { return std::nan(""); });
    EXPECT_TRUE(run.rank.run(updates({0, 1}, 1)).skipped);
    EXPECT_EQ(run.rank.parameters(), without.rank.parameters());
  });
}

TEST(StepUpdates, AStopAfterTheFirstUpdateWaitsForTheStepsEnd) {
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    OneRank run(comm, unclipped()), whole(comm, unclipped());
    bool wanted = false;
    dist::StopPoll poll(comm, [&] { return wanted ? 15 : 0; });
    run.rank.runner().set_loss_hook([&](std::int64_t, double loss) {
      wanted = true;
      return loss;
    });
    const dist::StepPlan plan = updates({0, 1, 0});
    const std::vector<PrecisionMap> maps = maps_of(run);
    const StepOutcome outcome = run.rank.runner().run(plan, maps, poll);
    EXPECT_EQ(outcome.stop, 15);
    EXPECT_FALSE(outcome.abandoned);
    EXPECT_EQ(outcome.updates.size(), 3U);
    whole.rank.run(plan);
    EXPECT_EQ(run.rank.parameters(), whole.rank.parameters());
  });
}

// One rank's memory does not suffice in the second update: what the first one has changed stays, and counts once.
TEST(StepUpdates, AStepWithoutMemoryGoesOnAfterTheUpdatesThatAreThrough) {
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    StepRunnerOptions options = unclipped();
    options.train.on_out_of_memory = OnOutOfMemory::kSmallerMicroBatch;
    OneRank run(comm, options), apart(comm, options);
    const dist::StepPlan plan = updates({0, 1});
    const std::vector<PrecisionMap> maps = maps_of(run);
    StepRunner& runner = run.rank.runner();
    int updates_done = 0;
    runner.set_loss_hook([&](std::int64_t, double loss) { return ++updates_done, loss; });
    runner.set_gradient_hook([&](std::int64_t, std::int64_t micro_batch, int, const at::Tensor&) {
      if (updates_done == 1 && micro_batch >= 4 && runner.micro_batch_size() == 2) throw std::bad_alloc();
    });
    const StepOutcome first = runner.run(plan, maps, run.rank.poll());
    EXPECT_TRUE(first.abandoned);
    EXPECT_THAT(first.out_of_memory, ElementsAre(1));
    ASSERT_EQ(first.updates.size(), 1U);
    runner.set_micro_batch_size(1);
    const StepOutcome second = runner.run(plan, maps, run.rank.poll(), {}, first);
    EXPECT_FALSE(second.abandoned);
    EXPECT_TRUE(second.out_of_memory.empty());
    ASSERT_EQ(second.updates.size(), 2U);
    EXPECT_EQ(second.updates[0].loss, first.updates[0].loss);

    apart.rank.run(updates({0}));
    apart.rank.runner().set_micro_batch_size(1);
    apart.rank.run(updates({1}));
    EXPECT_EQ(run.rank.parameters(), apart.rank.parameters());
  });
}

TEST(StepUpdates, WhatIsNotCarriedOutIsRefused) {
  const auto comm = dist::make_single_comm();
  OneRank run(*comm, unclipped());
  const auto refusal = [&](const dist::StepPlan& plan) -> std::string {
    try {
      run.rank.run(plan);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(refusal(passes({{.map = 2, .trains = false}, {.map = 0}})), HasSubstr("somebody who learns from it"));
  EXPECT_THAT(refusal(passes({{.map = 0, .loss = {.distillation = 0.3}}})), HasSubstr("no teacher"));
  EXPECT_EQ(refusal(passes({{.map = 0}})), "");
}

}  // namespace
}  // namespace qat

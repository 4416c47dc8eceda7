// The precision range test: what it measures, and that a run is none the worse for it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <set>
#include <sstream>

#include "src/report/progress.h"
#include "src/schedule/range_test.h"
#include "src/train/feedback_state.h"
#include "src/train/owned_state.h"
#include "src/train/state_snapshot.h"
#include "src/train/token_accuracy.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;
using test::TinyRank;
using ::testing::HasSubstr;

class TestedRun : public test::TrainerTest {
 protected:
  TrainerOptions tested(const std::string& dir, std::int64_t steps = 6) const {
    TrainerOptions o = options(dir, steps);
    o.precision.min_bits = o.precision.max_bits = kAutoBits;
    o.range_test = {.steps = 6, .threshold = 0.001, .target_bits = 2};
    return o;
  }
  static RangeTestResult result_of(const End& end) { return range_test_from_json(end.state.range_test, "the state"); }

  // A run with bounds that are measured has the bits of one with these bounds given.
  void expect_no_trace(const std::string& name, TrainerOptions o, int ranks,
                       const QuantizerConfig& activation = {.granularity = Granularity::kToken}) {
    o.run.dir = (root_ / (name + " tested")).string();
    const End tested = train(o, ranks, activation);
    ASSERT_TRUE(tested.result.finished) << name;
    const RangeTestResult found = result_of(tested);
    ASSERT_GE(found.min_bits, 3) << name << range_test_text(found);
    TrainerOptions given = o;
    given.run.dir = (root_ / (name + " given")).string();
    given.precision.min_bits = found.min_bits, given.precision.max_bits = found.max_bits;
    const End plain = train(given, ranks, activation);
    EXPECT_EQ(tested.parameters, plain.parameters) << name;
    EXPECT_EQ(curve(name + " tested"), curve(name + " given")) << name;
    EXPECT_EQ(read(name + " tested", "eval.jsonl"), read(name + " given", "eval.jsonl")) << name;
    EXPECT_FALSE(fs::exists(root_ / (name + " given") / "range_test.json"));
  }
};

TEST_F(TestedRun, HasTheSameResultOnAnyNumberOfRanksAndAnotherAtEveryWidth) {
  const End one = train(tested("1", 4), 1);
  const RangeTestResult found = result_of(one);
  ASSERT_EQ(found.trials.size(), 5U);
  std::set<double> losses;
  for (const WidthTrial& trial : found.trials) {
    losses.insert(trial.loss_last);
    EXPECT_EQ(trial.skipped, 0);
    EXPECT_LT(trial.loss_last, trial.loss_first) << trial.bits << " bits";
    EXPECT_GT(trial.accuracy_last, 0.0);
  }
  EXPECT_EQ(losses.size(), 5U) << "every width trains with its own arithmetic";
  EXPECT_EQ(found.trials.front().bits, 3);
  EXPECT_EQ(found.trials.back().bits, 8);
  EXPECT_EQ(found.max_bits, std::max(6, found.min_bits)) << "2 + 4";
  EXPECT_EQ(range_test_from_json(read("1", "range_test.json"), "the file"), found);
  EXPECT_THAT(read("1", "logs/rank_000.log"), HasSubstr("by the range test before step 0"));
  for (const int ranks : {2, 4}) {
    const std::string dir = std::to_string(ranks);
    EXPECT_EQ(train(tested(dir, 4), ranks).state.range_test, one.state.range_test) << ranks;
    EXPECT_EQ(curve(dir), curve("1"));
  }
}

TEST_F(TestedRun, LeavesNoTrace) {
  for (const int ranks : {1, 2, 4}) expect_no_trace("shared " + std::to_string(ranks), tested("", 4), ranks);
  expect_no_trace("calibrated", tested("", 4), 2,
                  {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  expect_no_trace("running", tested("", 4), 2, {.granularity = Granularity::kTensor, .range = RangeSource::kRunning});
  TrainerOptions coded = tested("", 4);
  coded.comm = {.wire = WireFormatName::kInt8, .block = 64};
  expect_no_trace("coded", coded, 2);
  TrainerOptions plateau = tested("", 4);
  plateau.range_test.form = RangeTestForm::kPlateau;
  expect_no_trace("plateau", plateau, 1);
}

TEST_F(TestedRun, LeavesNoTraceInWhatWidthsHaveForThemselves) {
  lora_.slots = config_.norm_slots = Slots::kPerWidth;
  for (const int ranks : {1, 2, 4}) expect_no_trace("slots " + std::to_string(ranks), tested("", 4), ranks);
}

TEST_F(TestedRun, LeavesNoTraceOnStages) {
  stages_ = 2;
  expect_no_trace("stages", tested("", 4), 4);
  const std::string staged = read("stages tested", "range_test.json");
  stages_ = 1;
  train(tested("one", 4), 1);
  EXPECT_EQ(read("one", "range_test.json"), staged);
}

TEST_F(TestedRun, OnlyOneBoundMayBeLeftToIt) {
  TrainerOptions o = tested("run", 4);
  o.precision.max_bits = 5;
  EXPECT_EQ(result_of(train(o, 1)).trials.back().bits, 5) << "no width above the given bound is tried";
  o = tested("lower", 4);
  o.precision.min_bits = 6;
  const RangeTestResult found = result_of(train(o, 1));
  EXPECT_EQ(found.trials.front().bits, 6);
  EXPECT_EQ(found.max_bits, 6) << "2 + 4";
}

TEST_F(TestedRun, AResumedRunKeepsTheBoundsItHas) {
  TrainerOptions whole = tested("whole");
  whole.checkpoint.every = 3, whole.checkpoint.keep = 0;
  const End end = train(whole, 2);
  TrainerOptions rest = tested("rest");
  rest.range_test.threshold = 0.9;  // nothing would pass
  fs::create_directories(fs::path(rest.run.dir) / "checkpoints");
  fs::copy(fs::path(whole.run.dir) / "checkpoints/step_00000003", fs::path(rest.run.dir) / "checkpoints/step_00000003",
           fs::copy_options::recursive);
  const End resumed = train(rest, 2);
  EXPECT_EQ(resumed.parameters, end.parameters);
  EXPECT_EQ(resumed.state.range_test, end.state.range_test);
  EXPECT_FALSE(fs::exists(root_ / "rest/range_test.json")) << "it has not measured again";
  EXPECT_THAT(read("rest", "logs/rank_000.log"), HasSubstr("by the range test that the checkpoint has, before step 0"));
}

TEST_F(TestedRun, TheTimeLeftIsReckonedWithoutIt) {
  std::atomic<int> steps{0};  // what the clock counts
  std::ostringstream shown;
  Progress progress(shown, {.total_steps = 4, .clock = [&] { return static_cast<double>(steps); }});
  progress_ = &progress;
  train(tested("run", 4), 1, {.granularity = Granularity::kToken}, [&](Trainer& trainer) {
    trainer.runner().set_loss_hook([&](std::int64_t, double loss) { return ++steps, loss; });
  });
  EXPECT_THAT(shown.str(), ::testing::ContainsRegex("step 1/4 .* ETA 0:03\n"));
}

TEST_F(TestedRun, AStopIsObeyedWithinIt) {
  std::atomic<int> signal{SIGTERM};
  const std::vector<float> initial =
      train(tested("initial"), 2, {.granularity = Granularity::kToken}, {}, &signal).parameters;
  signal = 0;
  std::atomic<int> calls{0};
  const End end = train(
      tested("run"), 2, {.granularity = Granularity::kToken},
      [&](Trainer& trainer) {
        trainer.runner().set_loss_hook([&](std::int64_t, double loss) {
          if (++calls == 16) signal = SIGTERM;  // of two ranks: in step 8, the second one at the second width
          return loss;
        });
      },
      &signal);
  EXPECT_FALSE(end.result.finished);
  EXPECT_EQ(end.result.signal, SIGTERM);
  EXPECT_LE(calls.load(), 20) << "at the next step";
  EXPECT_EQ(end.parameters, initial);
  EXPECT_EQ(end.state.range_test, "");
  EXPECT_FALSE(fs::exists(root_ / "run/range_test.json"));
}

TEST_F(TestedRun, WithoutAWidthThatPassesTheRunSaysHowToGoOn) {
  TrainerOptions o = tested("run");
  o.range_test.threshold = 0.99;
  try {
    train(o, 2);
    FAIL() << "it must not train";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_THAT(error.what(), HasSubstr("range_test.threshold = 0.99: the most is"));
  }
  EXPECT_TRUE(fs::exists(root_ / "run/range_test.json")) << "what was measured is kept";
}

// Everything that a rank answers for, as bits.
struct Kept {
  std::vector<std::vector<float>> owned, feedback;
  std::vector<std::int64_t> steps;
  std::size_t ranges = 0;
  friend bool operator==(const Kept&, const Kept&) = default;
};

Kept kept_by(TinyRank& rank, int data_rank) {
  Kept kept;
  for (const OwnedState& own : owned_state(rank.model().parameters(), rank.runner().optimizer()))
    for (const std::span<float> part : {own.values, own.exp_avg, own.exp_avg_sq})
      kept.owned.emplace_back(part.begin(), part.end());
  for (const TensorPiece& piece : feedback_to_save(rank.model().parameters(), rank.runner().gradients(), data_rank)) {
    const auto* values = static_cast<const float*>(piece.values.data);
    kept.feedback.emplace_back(values, values + piece.values.elems);
  }
  kept.steps = rank.runner().optimizer().steps();
  for (const QuantLinear& linear : rank.model().linears()) kept.ranges += linear.activation_quantizer().ranges().size();
  return kept;
}

TEST(StateSnapshot, PutsEverythingBackOnOneTwoAndFourRanks) {
  const TokenSource tokens = test::tiny_tokens();
  for (const int ranks : {1, 2, 4})
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel spec;
      spec.lora.slots = spec.config.norm_slots = Slots::kPerWidth;
      StepRunnerOptions options = test::tiny_options();
      options.comm = {.wire = WireFormatName::kInt8, .block = 64};
      TinyRank rank(spec, tokens, comm, options);
      rank.step(0, 8, 8);
      rank.step(1, 4, 8);
      const Kept before = kept_by(rank, comm.rank());
      const std::vector<float> parameters = rank.parameters();
      StateSnapshot snapshot(rank.model(), rank.runner(), comm);
      const StepOutcome first = rank.step(2, 4, 8);
      for (int again = 0; again < 2; ++again) {
        rank.step(3, 8, 8);
        rank.model().linear(1).activation_quantizer().put_in_force({4, 4}, {});
        EXPECT_NE(kept_by(rank, comm.rank()).owned, before.owned);
        EXPECT_NE(rank.parameters(), parameters);
        snapshot.restore();
        EXPECT_EQ(rank.parameters(), parameters);
        EXPECT_EQ(rank.step(2, 4, 8).loss, first.loss);
      }
      snapshot.finish();
      EXPECT_EQ(kept_by(rank, comm.rank()), before) << ranks;
      EXPECT_EQ(rank.parameters(), parameters) << ranks;
    });
}

TEST(TokenAccuracy, IsTheShareOfTargetsThatAreTheMostLikelyToken) {
  const TokenSource tokens = test::tiny_tokens();
  std::vector<double> by_ranks;
  for (const int ranks : {1, 2, 4})
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel spec;
      TinyRank rank(spec, tokens, comm, test::tiny_options());
      for (std::uint64_t step = 0; step < 20; ++step) rank.step(step, 8, 8);
      const auto precision = PrecisionMap::uniform(rank.model().config().linears(), 8, 8, 8);
      const auto found = token_accuracy(
          rank.model(), precision, rank.sampler(), comm, rank.poll(),
          {.first_sample = 320, .batch_size = 16, .micro_batch_size = 2, .sequence_length = 12, .seed = 5});
      const Batch batch = sample_batch(rank.sampler(), 320, 16, 12);
      const at::NoGradGuard no_grad;
      const ForwardContext context{.precision = &precision};
      const at::Tensor logits = rank.model().logits(rank.model().hidden(batch.inputs, context), context);
      const auto right = logits.argmax(-1).eq(batch.targets).sum().item<std::int64_t>();
      if (comm.rank() != 0) return;
      ASSERT_TRUE(found.has_value());
      EXPECT_EQ(*found, static_cast<double>(right) / (16 * 12));
      EXPECT_GT(*found, 0.1) << "it has learnt something";
      by_ranks.push_back(*found);
    });
  EXPECT_EQ(by_ranks[0], by_ranks[1]);
  EXPECT_EQ(by_ranks[0], by_ranks[2]);
}

}  // namespace
}  // namespace qat

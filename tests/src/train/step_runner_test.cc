#include "src/train/step_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include "src/train/calibrator.h"
#include "src/train/owned_state.h"
#include "tests/support/calibrated_range.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

struct Curve {
  std::vector<double> losses, norms;
  std::vector<float> parameters, moments;
  std::vector<std::int64_t> weight_bytes;  // that rank 0 has sent; no result
  bool operator==(const Curve& other) const {
    return losses == other.losses && norms == other.norms && parameters == other.parameters && moments == other.moments;
  }
};

// Both of AdamW's moments, of every element in order, from all ranks.
std::vector<float> moments_of(TinyRank& rank, dist::Communicator& comm) {
  const ParameterStore& store = rank.model().parameters();
  std::vector<std::int64_t> begins;
  std::int64_t end = 0;
  for (const ParameterInfo& info : store.infos()) begins.push_back(std::exchange(end, end + info.elems));
  std::vector<float> moments(static_cast<std::size_t>(2 * end));
  for (const OwnedState& own : owned_state(store, rank.runner().optimizer())) {
    const std::int64_t at = begins[static_cast<std::size_t>(own.id)] + own.first;
    std::copy(own.exp_avg.begin(), own.exp_avg.end(), moments.begin() + at);
    std::copy(own.exp_avg_sq.begin(), own.exp_avg_sq.end(), moments.begin() + end + at);
  }
  comm.all_reduce(view(std::span(moments)), dist::ReduceOp::kSum);  // to the others' zeros
  return moments;
}

// Widths as a cyclic schedule visits them, the unquantized one included.
int width_of(int step) { return std::vector<int>{3, 4, 8, 32, 6}[static_cast<std::size_t>(step) % 5]; }

Curve train(int ranks, int steps, int gradient_bits, const StepRunnerOptions& options = test::tiny_options()) {
  at::set_num_threads(1);  // what a fixed number of bits is promised for: equal threads a rank
  const TokenSource tokens = test::tiny_tokens();
  Curve curve;
  std::mutex mutex;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, options);
    for (int step = 0; step < steps; ++step) {
      const int bits = width_of(step);
      const StepOutcome outcome = rank.step(static_cast<std::uint64_t>(step), bits, bits == 32 ? 32 : gradient_bits);
      const std::lock_guard lock(mutex);
      if (comm.rank() != 0) continue;
      curve.losses.push_back(outcome.loss), curve.norms.push_back(outcome.grad_norm);
      curve.weight_bytes.push_back(outcome.wire.weight_bytes);
    }
    std::vector<float> moments = moments_of(rank, comm);
    const std::vector<float> mine = rank.parameters();
    const std::lock_guard lock(mutex);
    curve.moments = std::move(moments);
    if (!curve.parameters.empty()) {
      EXPECT_EQ(curve.parameters, mine) << "replicas differ";
    }
    curve.parameters = mine;
  });
  return curve;
}

// Of ranks whose updated weights come back as codes where a pass reads codes, and the bytes that rank 0 sends for them.
TEST(StepRunner, WeightsThatComeBackAsCodesChangeNoBit) {
  StepRunnerOptions values = test::tiny_options();
  values.comm.weights = WeightsName::kFp32;
  for (const int ranks : {2, 3, 4}) {
    if (ranks == 3) values.train.batch_size = 18;
    StepRunnerOptions codes = values;
    codes.comm.weights = WeightsName::kCodes;
    const Curve as_values = train(ranks, 10, 8, values), as_codes = train(ranks, 10, 8, codes);
    EXPECT_EQ(as_codes, as_values) << ranks << " ranks";
    ASSERT_EQ(as_codes.weight_bytes.size(), 10U);
    // Step i sends what step i - 1 has changed: of linear layers alone at 3 and 4, then at 8, then at no bits.
    const auto sent = [&](std::size_t step) { return as_codes.weight_bytes[step]; };
    const std::int64_t all = as_values.weight_bytes[5];
    EXPECT_EQ(as_values.weight_bytes[6], all);
    EXPECT_LT(sent(6), sent(7));
    EXPECT_LT(sent(7), all);
    EXPECT_EQ(sent(8), all);
    values = test::tiny_options();
    values.comm.weights = WeightsName::kFp32;
  }
}

TEST(StepRunner, OneTwoFourAndEightRanksComputeTheSameBits) {
  for (const int gradient_bits : {8, 32}) {
    const Curve one = train(1, 10, gradient_bits);
    EXPECT_NE(one.losses.back(), one.losses.front());
    for (const int ranks : {2, 4, 8}) {
      const Curve many = train(ranks, 10, gradient_bits);
      EXPECT_EQ(many.losses, one.losses) << ranks << " ranks";
      EXPECT_EQ(many.norms, one.norms) << ranks << " ranks";
      EXPECT_EQ(many.parameters, one.parameters) << ranks << " ranks";
      EXPECT_EQ(many.moments, one.moments) << ranks << " ranks";
    }
  }
}

// Whatever the number of micro-batches; ranks that are three times a power of two agree with each other.
TEST(StepRunner, RankCountsThatDifferByAPowerOfTwoComputeTheSameBits) {
  for (const std::int64_t micro_batches : {24, 48}) {
    StepRunnerOptions options = test::tiny_options();
    options.train = {.batch_size = micro_batches, .micro_batch_size = 1};
    const Curve one = train(1, 4, 8, options);
    for (const int ranks : {2, 4, 8})
      EXPECT_EQ(train(ranks, 4, 8, options), one) << micro_batches << " on " << ranks << " ranks";
    const Curve three = train(3, 4, 8, options);
    EXPECT_EQ(train(6, 4, 8, options), three) << micro_batches << " on 6 ranks";
    EXPECT_NEAR(three.losses.back(), one.losses.back(), 1e-3);
  }
}

// One pass after the other: on one rank the sum of the passes in order, on two the sum of two halves.
TEST(StepRunner, ARunningSumAgreesWithTheTreeToRoundingAndDependsOnTheRanks) {
  StepRunnerOptions running = test::tiny_options();
  running.train.accumulate = Accumulate::kRunning;
  const Curve tree = train(1, 4, 8), one = train(1, 4, 8, running), two = train(2, 4, 8, running);
  EXPECT_EQ(one.losses[0], tree.losses[0]);
  EXPECT_NE(one.norms[0], tree.norms[0]);
  EXPECT_NEAR(one.norms[0], tree.norms[0], 1e-6 * tree.norms[0]);
  EXPECT_NE(one.norms[0], two.norms[0]);
  EXPECT_NEAR(one.norms[0], two.norms[0], 1e-6 * tree.norms[0]);
  EXPECT_NEAR(one.losses[3], tree.losses[3], 1e-3);
  // With threads as without them, and again.
  running.threads = 3;
  EXPECT_EQ(train(1, 4, 8, running), one);
}

TEST(StepRunner, LearnsOnCodesWithEightBitGradients) {
  const Curve curve = train(1, 60, 8);
  EXPECT_LT(curve.losses.back(), curve.losses.front() - 1.0);
}

TEST(StepRunner, TwoRunsAreTheSameAndOtherGradientBitsAreNot) {
  const Curve first = train(2, 4, 8), second = train(2, 4, 8);
  EXPECT_EQ(first.parameters, second.parameters);
  EXPECT_NE(train(2, 4, 32).parameters, first.parameters);
}

TEST(StepRunner, ThreadsChangeNoBit) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  std::vector<float> expected;
  for (const int threads : {1, 2, 3, 8, 20}) {
    TinyModel spec;
    StepRunnerOptions options = test::tiny_options();
    options.threads = threads;
    TinyRank rank(spec, tokens, *comm, options);
    for (int step = 0; step < 5; ++step) rank.step(static_cast<std::uint64_t>(step), width_of(step), 8);
    if (expected.empty()) expected = rank.parameters();
    EXPECT_EQ(rank.parameters(), expected) << threads << " threads";
  }
}

TEST(StepRunner, ParametersWithoutGradientAreNotTouched) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec;
  TinyRank rank(spec, tokens, *comm, test::tiny_options());
  const QuantLinear& linear = rank.model().linears()[0];
  rank.step(0, 8, 8);
  const at::Tensor a = rank.model().parameters().tensor(linear.adapter(8)->a).detach().clone();
  const auto steps_of = [&](int id) { return rank.runner().optimizer().steps().at(static_cast<std::size_t>(id)); };
  EXPECT_EQ(steps_of(linear.adapter(8)->a), 1);
  // Without adapters, an unquantized step decays no moment, applies no weight decay and counts no step for them.
  rank.step(1, 32, 32);
  EXPECT_TRUE(at::equal(rank.model().parameters().tensor(linear.adapter(8)->a), a));
  EXPECT_EQ(steps_of(linear.adapter(8)->a), 1);
  EXPECT_EQ(steps_of(linear.spec().weight), 2);
  rank.step(2, 4, 8);
  EXPECT_EQ(steps_of(linear.adapter(8)->a), 2);
}

TEST(StepRunner, ANanOnOneRankMakesAllSkipAndChangesNothing) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(4, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, test::tiny_options());
    rank.step(0, 8, 8);
    const std::vector<float> before = rank.parameters();
    const std::vector<std::int64_t> steps = rank.runner().optimizer().steps();
    rank.runner().set_gradient_hook(
        [](std::int64_t step, std::int64_t micro_batch, int id, const at::Tensor& gradient) {
          if (step == 1 && micro_batch == 5 && id == 3) gradient[7].fill_(std::nanf(""));
        });
    const StepOutcome bad = rank.step(1, 8, 8);
    EXPECT_TRUE(bad.skipped);
    EXPECT_EQ(rank.parameters(), before);
    EXPECT_EQ(rank.runner().optimizer().steps(), steps);
    EXPECT_FALSE(rank.step(2, 8, 8).skipped);
    EXPECT_NE(rank.parameters(), before);
  });
}

TEST(StepRunner, TheGradientIsClippedToItsNorm) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec;
  StepRunnerOptions options = test::tiny_options();
  options.optim.clip_norm = 1e-3;
  TinyRank rank(spec, tokens, *comm, options);
  const StepOutcome outcome = rank.step(0, 8, 8);
  EXPECT_TRUE(outcome.clipped);
  EXPECT_GT(outcome.grad_norm, 1e-3);
  // The first moment of Adam after one step is (1 - beta1) times the clipped gradient.
  double sum = 0.0;
  for (const float m : rank.runner().optimizer().exp_avg()) sum += static_cast<double>(m) * m;
  EXPECT_NEAR(std::sqrt(sum) / 0.1, 1e-3, 1e-6);
}

TEST(StepRunner, TheLargestSignalReachesEveryRank) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, test::tiny_options());
    const std::vector maps = {PrecisionMap::uniform(spec.config.linears(), 8, 8, 8)};
    const dist::StepPlan plan{.maps = {{8, 8, 8}}, .updates = {{.passes = {{.map = 0}}, .learning_rate = 1e-3F}}};
    for (const int who : {0, 1}) {
      dist::StopPoll poll(comm, [&] { return comm.rank() == who ? 15 : 2; });
      EXPECT_EQ(rank.runner().run(plan, maps, poll).stop, 15) << who;
    }
  });
}

TEST(Calibration, GivesEveryRankTheRangesOfOneRank) {
  const TokenSource tokens = test::tiny_tokens();
  for (const QuantizerKind method : {QuantizerKind::kMinMax, QuantizerKind::kLog}) {
    const int bits = method == QuantizerKind::kLog ? 2 : 4;  // the widths without and with a mean
    std::vector<float> expected;
    std::mutex mutex;
    for (const int ranks : {1, 2, 3, 4, 8}) {
      dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
        TinyModel spec;
        spec.quant.activation = {
            .method = method, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
        StepRunnerOptions options = test::tiny_options();
        options.train.batch_size = 48;
        TinyRank rank(spec, tokens, comm, options);
        const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), bits, bits, 8);
        EXPECT_THROW(rank.step(0, bits, 8), Error);
        Logger log(LoggerOptions{});
        dist::StopPoll never(comm);
        EXPECT_TRUE(Calibrator(rank.model(), spec.quant, rank.sampler(), comm, never, log,
                               {.seed = 1, .batches = 5, .micro_batch_size = 2, .sequence_length = 12})
                        .before_step(map, 0));
        EXPECT_NO_THROW(rank.step(0, bits, 8));
        EXPECT_THROW(rank.step(0, 8, 8), Error);
        std::vector<float> ranges;
        for (const QuantLinear& linear : rank.model().linears()) {
          const CalibratedRange& range = linear.activation_quantizer().ranges().at(test::both(bits));
          EXPECT_EQ(range.batches, 5);
          ranges.push_back(range.lo.item<float>()), ranges.push_back(range.hi.item<float>());
          ASSERT_EQ(range.mean.defined(), bits == 2);
          if (bits == 2) ranges.push_back(range.mean.item<float>());
        }
        const std::lock_guard lock(mutex);
        if (expected.empty()) expected = ranges;
        EXPECT_EQ(ranges, expected) << ranks << " ranks";
      });
    }
  }
}

// Everything random in a micro-batch follows from seed, step and its index in the global batch.
TEST(StepRunner, AMicroBatchIsTheTrainingPassOfItsSamplesSeedStepAndIndex) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens();
  for (const bool stochastic : {true, false}) {
    for (const int ranks : {1, 2}) {
      dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
        TinyModel spec;
        spec.config.resid_dropout = 0.2;
        StepRunnerOptions options = test::tiny_options();
        options.stochastic_gradients = stochastic;
        TinyRank rank(spec, tokens, comm, options);
        const Gpt2& model = rank.model();
        const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 6, 6, 5);
        double sum = 0.0;
        const auto pass = [&](std::int64_t micro_batch) {
          const Batch batch = sample_batch(rank.sampler(), static_cast<std::uint64_t>(3 * 16 + micro_batch * 2),
                                           /*rows=*/2, options.sequence_length, at::kCPU);
          return model.loss_and_gradients({.tokens = batch.inputs}, batch.targets,
                                          {.precision = &map,
                                           .training = true,
                                           .stochastic_gradients = stochastic,
                                           .seed = 5,
                                           .step = 3,
                                           .micro_batch = static_cast<std::uint64_t>(micro_batch)});
        };
        std::int64_t of = -1;  // `want`'s micro-batch
        std::vector<at::Tensor> want;
        int compared = 0;
        rank.runner().set_gradient_hook(
            [&](std::int64_t, std::int64_t micro_batch, int id, const at::Tensor& gradient) {
              if (std::exchange(of, micro_batch) != micro_batch) want = pass(micro_batch).gradients.parameters;
              EXPECT_TRUE(at::equal(gradient, want[static_cast<std::size_t>(id)])) << micro_batch << " " << id;
              ++compared;
            });
        for (std::int64_t i = 0; i < 8; ++i) sum += pass(i).loss.item<double>();
        EXPECT_NEAR(rank.step(3, 6, 5).loss, sum / 8, 1e-9);
        EXPECT_EQ(compared, 8 / ranks * model.parameters().count());
      });
    }
  }
}

TEST(StepRunner, AStepSeesTheWeightsOfTheLastUpdate) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec;
  TinyRank rank(spec, tokens, *comm, test::tiny_options());
  rank.step(0, 8, 8);
  TinyModel other_spec;
  TinyRank other(other_spec, tokens, *comm, test::tiny_options());  // its codes are made for the first time
  for (int id = 0; id < rank.model().parameters().count(); ++id)
    other.model().parameters().set_values(id, rank.model().parameters().host_values(id));
  EXPECT_EQ(rank.step(1, 8, 8).loss, other.step(1, 8, 8).loss);
}

TEST(StepRunner, AClipNormOfZeroClipsNothing) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec;
  StepRunnerOptions options = test::tiny_options();
  options.optim.clip_norm = 0.0;
  TinyRank rank(spec, tokens, *comm, options);
  const StepOutcome outcome = rank.step(0, 8, 8);
  EXPECT_FALSE(outcome.clipped);
  double sum = 0.0;  // the first moment is (1 - beta1) times the gradient as it is
  for (const float m : rank.runner().optimizer().exp_avg()) sum += static_cast<double>(m) * m;
  EXPECT_NEAR(std::sqrt(sum) / 0.1, outcome.grad_norm, 1e-4 * outcome.grad_norm);
}

TEST(StepRunner, TheUpdateIsProportionalToThePlansLearningRate) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  const auto moved = [&](float rate) {
    TinyModel spec;
    TinyRank rank(spec, tokens, *comm, test::tiny_options());
    const std::vector<float> before = rank.parameters();
    rank.step(0, 8, 8, rate);
    const std::vector<float> after = rank.parameters();
    double sum = 0.0;
    for (std::size_t i = 0; i < after.size(); ++i) sum += std::abs(static_cast<double>(after[i]) - before[i]);
    return sum;
  };
  EXPECT_EQ(moved(0.0F), 0.0);
  EXPECT_NEAR(moved(2e-3F) / moved(1e-3F), 2.0, 1e-3);
}

TEST(StepRunner, TheGradientIsTheMeanOverMicroBatches) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  StepOutcome outcomes[2];
  for (const std::int64_t micro : {2, 16}) {  // the same sixteen sequences
    StepRunnerOptions options = test::tiny_options();
    options.train.micro_batch_size = micro;
    TinyModel spec;
    TinyRank rank(spec, tokens, *comm, options);
    outcomes[micro == 2 ? 0 : 1] = rank.step(0, 32, 32);
  }
  EXPECT_NEAR(outcomes[0].loss, outcomes[1].loss, 1e-5 * outcomes[1].loss);
  EXPECT_NEAR(outcomes[0].grad_norm, outcomes[1].grad_norm, 1e-4 * outcomes[1].grad_norm);
}

}  // namespace
}  // namespace qat

// What a run does: its steps, and what it writes.
#include <cmath>

#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TrainerTest;

TEST_F(TrainerTest, KeepsTheBestCheckpointAndStopsEarly) {
  TrainerOptions o = options("run", 40);
  o.eval.every = 2, o.eval.patience = 3, o.eval.bits = {8};
  o.precision = {.kind = ScheduleKind::kConstant, .max_bits = 8};
  o.eval.min_delta = 2.0;  // nothing after the first evaluation is so much better
  o.checkpoint.keep = 1, o.checkpoint.keep_best = true, o.checkpoint.every = 1;
  const End end = train(o, 2);
  ASSERT_TRUE(end.result.finished);
  EXPECT_EQ(end.state.step, 8);  // better at 2; not at 4, 6 and 8
  EXPECT_EQ(end.state.stale_evaluations, 3);
  EXPECT_EQ(end.state.best_step, 2);
  const auto best = CheckpointReader::open(root_ / "run/checkpoints/best");
  EXPECT_EQ(load_train_state(best).step, end.state.best_step);
  // Started again it is finished; with more patience it goes on, and remembers what was best.
  EXPECT_EQ(train(o, 1).state.step, end.state.step);
  o.eval.patience = 4;
  const End longer = train(o, 1);
  EXPECT_EQ(longer.state.step, 10);
  EXPECT_EQ(longer.state.best_loss, end.state.best_loss);
  EXPECT_TRUE(fs::exists(root_ / "run/checkpoints/step_00000002"));
}

// No option is lost between the configuration and the steps.
TEST_F(TrainerTest, ARunIsItsPlannedStepsOneByOne) {
  for (const bool stochastic : {true, false}) {
    TrainerOptions o = options(stochastic ? "stochastic" : "nearest", 5);
    o.optim = {.beta1 = 0.8, .beta2 = 0.9, .eps = 1e-6, .weight_decay = 0.3, .clip_norm = 0.5};
    o.quant.stochastic_gradients = stochastic;
    o.quant.activation_bits = 7;
    o.quant.overrides = {{.layers = "h.1.*", .weight_bits = 6}};
    const End end = train(o, 1);

    const TokenSource tokens = test::tiny_tokens();
    const auto comm = dist::make_single_comm();
    test::TinyModel spec;
    spec.quant = o.quant;
    test::TinyRank rank(
        spec, tokens, *comm,
        {.seed = 5, .sequence_length = 12, .train = o.train, .optim = o.optim, .stochastic_gradients = stochastic});
    const Coordinator coordinator(o, rank.sampler().windows_per_epoch());
    for (std::int64_t step = 0; step < 5; ++step) {
      const dist::StepPlan plan = coordinator.plan({.step = step, .samples = step * 16});
      ASSERT_EQ(plan.maps.size(), 1U);
      const dist::PlannedWidths& widths = plan.maps[0];
      const std::vector maps = {PrecisionMap::make(
          rank.model().linear_names(), {BitWidth(widths.weight_bits), BitWidth(7), BitWidth(widths.gradient_bits)},
          o.quant.overrides)};
      (void)rank.runner().run(plan, maps, rank.poll());
    }
    EXPECT_EQ(end.parameters, rank.parameters());
  }
}

TEST_F(TrainerTest, EvaluatesAtTheStartEverySoManyStepsAndAtTheEnd) {
  TrainerOptions o = options("run", 8);
  o.eval.at_start = true, o.eval.every = 3, o.eval.bits = {8, 3};
  o.checkpoint.every = 4, o.checkpoint.keep = 0;
  train(o, 2);
  const auto lines = [&] {
    std::ifstream in(root_ / "run/eval.jsonl");
    std::vector<std::string> all;
    for (std::string line; std::getline(in, line);) {
      const Value value = parse_json(line, "eval");
      all.push_back(to_json(value.at("step")) + " " + to_json(value.at("bits")));
      EXPECT_NEAR(std::log(value.at("perplexity").as_double()), value.at("nll").as_double(), 1e-6);
    }
    return all;
  };
  const std::vector<std::string> want = {"0 32", "3 8", "3 3", "6 8", "6 3", "8 8", "8 3"};
  EXPECT_EQ(lines(), want);
  fs::remove_all(root_ / "run/checkpoints/step_00000008");
  fs::remove(root_ / "run/report.md");
  train(o, 1);  // from step 4: a resumed run has no start
  EXPECT_EQ(lines(), want);
}

TEST_F(TrainerTest, WritesMetricsEverySoManyStepsOfTheLastAndOfSkippedOnes) {
  TrainerOptions o = options("run", 10);
  o.train.log_every = 4;
  train(o, 1, {.granularity = Granularity::kToken}, [](Trainer& trainer) {
    trainer.runner().set_gradient_hook([](std::int64_t step, std::int64_t, int id, const at::Tensor& gradient) {
      if (step == 5 && id == 0) gradient[0].fill_(NAN);
    });
  });
  std::string steps;
  for (const std::string& line : curve("run")) steps += line.substr(0, line.find(' ')) + " ";
  EXPECT_EQ(steps, "3 5 7 9 ");
}

TEST_F(TrainerTest, KeepsSoManyCheckpointsWithTheCountersOfTheirSteps) {
  TrainerOptions o = options("run", 9);
  o.checkpoint.every = 2, o.checkpoint.keep = 2;
  std::vector<std::int64_t> told;
  std::string newest;
  on_progress_ = [&](std::int64_t steps, const std::string& checkpoint) { told.push_back(steps), newest = checkpoint; };
  train(o, 1);
  const auto all = list_checkpoints(root_ / "run/checkpoints");
  ASSERT_EQ(all.size(), 2U);
  EXPECT_EQ(all[0].step, 8);
  EXPECT_EQ(all[1].step, 9);
  const TrainState state = load_train_state(CheckpointReader::open(all[0].folder));
  EXPECT_EQ(state.seed, 5U);
  EXPECT_EQ(state.config_hash, 77U);
  EXPECT_EQ(state.consumed_samples, 8 * 16);
  EXPECT_EQ(state.consumed_tokens, 8 * 16 * 12);
  // After each step, and again when a checkpoint is there, some steps later.
  EXPECT_EQ(told.size(), 10U + 5U);
  EXPECT_TRUE(std::is_sorted(told.begin(), told.end()));
  EXPECT_EQ((std::set<std::int64_t>{told.begin(), told.end()}).size(), 10U);
  EXPECT_EQ(fs::path(newest), all[1].folder);
}

// Saves beside every step change no bit of training, nor training of them: each is the same as that of a run that ends
// with its step.
TEST_F(TrainerTest, ACheckpointIsTheStateAtItsStepWhateverTrainingDidMeanwhile) {
  constexpr std::int64_t kSteps = 6;
  TrainerOptions o = options("saves", kSteps);
  o.checkpoint.every = 1, o.checkpoint.keep = 0;
  const End with = train(o, 2);
  o.run.dir = (root_ / "none").string(), o.checkpoint.every = 0;
  EXPECT_EQ(train(o, 2).parameters, with.parameters);
  EXPECT_EQ(curve("saves"), curve("none"));
  for (std::int64_t step = 1; step < kSteps; ++step) {
    // A run that is stopped after that step.
    o.run.dir = (root_ / ("stopped" + std::to_string(step))).string();
    std::atomic<int> signal{0};
    train(
        o, 2, {.granularity = Granularity::kToken},
        [&](Trainer& trainer) {
          trainer.runner().set_loss_hook([&, step](std::int64_t at, double loss) {
            if (at == step) signal = 15;
            return loss;
          });
        },
        &signal);
    const auto stopped = list_checkpoints(fs::path(o.run.dir) / "checkpoints");
    ASSERT_EQ(stopped.size(), 1U);
    const fs::path other = root_ / "saves/checkpoints" / step_folder_name(stopped[0].step);
    for (const char* file : {"rank_00000.h5", "rank_00001.h5"})
      EXPECT_TRUE(read_file(stopped[0].folder / file) == read_file(other / file)) << stopped[0].step << " " << file;
  }
}

TEST_F(TrainerTest, MetricsSayBesideWhichStepsACheckpointWasWritten) {
  TrainerOptions o = options("run", 6);
  o.checkpoint.every = 3;
  train(o, 2);
  std::vector<bool> saving;
  std::ifstream in(root_ / "run/metrics.jsonl");
  for (std::string line; std::getline(in, line);) saving.push_back(parse_json(line, "m").at("saving").as_bool());
  ASSERT_EQ(saving.size(), 6U);
  EXPECT_TRUE(saving[3]);  // the step after that of the first one
  for (const std::size_t before : {0, 1, 2}) EXPECT_FALSE(saving[before]);
  EXPECT_THAT(
      read("run", "logs/rank_000.log"),
      ::testing::AllOf(::testing::ContainsRegex("checkpoint complete: .*step_00000003 .after .* s and [1-3] step"),
                       ::testing::HasSubstr("; training waited ")));
}

TEST_F(TrainerTest, TheReportHoldsEveryWidthOnce) {
  train(options("run", 6), 2);
  const Value report = parse_json(read("run", "report.json"), "report.json");
  EXPECT_EQ(report.at("widths").as_array().size(), 3U);
  for (const Value& width : report.at("widths").as_array())
    EXPECT_GT(width.at("perplexity").at("held_out").as_double(), 1.0);
}

}  // namespace
}  // namespace qat

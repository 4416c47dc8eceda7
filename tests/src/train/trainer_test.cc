#include "src/train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <mutex>
#include <optional>
#include <thread>

#include "dist/comm/agree.h"
#include "src/base/json.h"
#include "src/checkpoint/catalog.h"
#include "src/train/range_state.h"
#include "src/train/run_state.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;

class TrainerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    root_ = fs::temp_directory_path() / ("qat trainer é " + std::to_string(getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  TrainerOptions options(const std::string& dir, std::int64_t steps) const {
    TrainerOptions o;
    o.run = {.dir = (root_ / dir).string(), .seed = 5};
    o.train = {.steps = steps, .batch_size = 16, .micro_batch_size = 2, .max_skips = 3};
    o.quant.widths = {3, 4, 5, 6, 8, 32};
    o.precision = {.cycles = 2, .min_bits = 3, .max_bits = 8};
    o.lr = {.peak = 1e-2, .warmup_steps = 2};
    o.data.sequence_length = 12;
    o.eval = {.bits = {32, 8, 3}, .batch_size = 4};
    o.config_json = R"({"model": {"n_layer": 2}})";
    o.config_hash = 77;
    return o;
  }

  struct End {
    TrainResult result;
    TrainState state;
    std::vector<float> parameters;
  };
  using Prepare = std::function<void(Trainer&)>;

  // Runs `options` on `ranks` threads; what rank 0 ends with.
  End train(const TrainerOptions& options, int ranks, const QuantizerConfig& activation = {.granularity = "token"},
            const Prepare& prepare = {}, const std::atomic<int>* signal = nullptr) {
    const TokenSource tokens = test::tiny_tokens(train_tokens_), held_out = test::tiny_tokens(held_out_tokens_);
    End end;
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel mine;
      mine.quant = options.quant;
      mine.quant.activation = activation;
      Gpt2 model(mine.config, mine.lora, mine.quant, StepRunner::padding(comm.size()));
      model.init_random(options.run.seed);
      fs::create_directories(options.run.dir);
      Logger log({.dir = fs::path(options.run.dir) / "logs", .rank = comm.rank()});
      TrainerOptions own = options;
      own.quant = mine.quant;
      Trainer trainer(own, {.model = model,
                            .lora = mine.lora,
                            .train_tokens = tokens,
                            .val_tokens = held_out,
                            .comm = comm,
                            .log = log,
                            .signal = signal,
                            .on_progress = comm.rank() == 0 ? on_progress_ : nullptr});
      if (prepare) prepare(trainer);
      TrainResult result = trainer.run();
      if (comm.rank() != 0) return;
      const auto flat = model.parameters().trainable_flat();
      end = {std::move(result), trainer.state(), {flat.begin(), flat.begin() + model.parameters().trainable_elems()}};
    });
    return end;
  }

  // metrics.jsonl without what a clock writes.
  std::vector<std::string> curve(const std::string& dir) const {
    std::ifstream in(root_ / dir / "metrics.jsonl");
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      const Value value = parse_json(line, "metrics");
      lines.push_back(to_json(value.at("step")) + " " + to_json(value.at("loss")) + " " +
                      to_json(value.at("grad_norm")) + " " + to_json(value.at("weight_bits")) + " " +
                      to_json(value.at("bitops_ratio")));
    }
    return lines;
  }
  std::string read(const std::string& dir, const std::string& file) const { return read_file(root_ / dir / file); }

  fs::path root_;
  std::int64_t train_tokens_ = 4000, held_out_tokens_ = 300;
  std::function<void(std::int64_t, const std::string&)> on_progress_;
};

TEST_F(TrainerTest, ARunStoppedAndResumedContinuesBitForBit) {
  const End whole = train(options("whole", 12), 2);
  ASSERT_TRUE(whole.result.finished);
  TrainerOptions part = options("part", 12);
  part.checkpoint.every = 5;
  std::atomic<int> signal{0};
  const End stopped = train(
      part, 2, {.granularity = "token"},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, std::span<float>) {
          if (step == 6) signal = 15;
        });
      },
      &signal);
  EXPECT_FALSE(stopped.result.finished);
  EXPECT_EQ(stopped.result.signal, 15);
  EXPECT_LT(stopped.state.step, 12);
  const End resumed = train(part, 2);
  EXPECT_TRUE(resumed.result.finished);
  EXPECT_EQ(resumed.parameters, whole.parameters);
  EXPECT_EQ(curve("part"), curve("whole"));
  EXPECT_EQ(resumed.state.consumed_tokens, whole.state.consumed_tokens);
  EXPECT_EQ(resumed.state.bitops, whole.state.bitops);
}

// A copy in the older form: version 1 counted adapters in what the steps would have cost at 32 bits.
void make_version_1(const CheckpointReader& from, const fs::path& root) {
  CheckpointWriter to = CheckpointWriter::begin(root, from.info().step);
  TrainState state = load_train_state(from);
  state.bitops_at_full *= 1.1;
  save_train_state(to, state);
  to.set_attribute("/state", "version", std::int64_t{1});
  for (const std::string& name : from.tensor_names()) {
    if (name.starts_with("/state/")) continue;  // written above
    const Shape shape = from.tensor_info(name).shape;
    if (from.tensor_info(name).dtype == DType::kInt64)
      to.write_tensor(name, shape, std::span<const std::int64_t>(from.read_tensor<std::int64_t>(name)));
    else
      to.write_tensor(name, shape, std::span<const float>(from.read_tensor<float>(name)));
  }
  to.commit();
}

TEST_F(TrainerTest, ARunFromAnOlderCheckpointHasTheSameBitopsRatio) {
  TrainerOptions o = options("run", 6);
  o.checkpoint.every = 3, o.checkpoint.keep = 0;
  const End whole = train(o, 1);
  const auto before = curve("run");
  const fs::path root = root_ / "run/checkpoints";
  fs::remove_all(root / "step_00000006");
  fs::remove(root_ / "run/report.md");
  make_version_1(CheckpointReader::open(root / "step_00000003"), root);
  const End again = train(o, 1);
  EXPECT_EQ(curve("run"), before);
  EXPECT_EQ(again.state.bitops_at_full, whole.state.bitops_at_full);
}

TEST_F(TrainerTest, AResumeFromAnEarlierCheckpointDropsTheMetricsAfterIt) {
  TrainerOptions o = options("run", 10);
  o.checkpoint.every = 4, o.checkpoint.keep = 0;
  const End whole = train(o, 1);
  const auto before = curve("run");
  fs::remove_all(root_ / "run/checkpoints/step_00000010");
  fs::remove_all(root_ / "run/checkpoints/step_00000008");
  fs::remove(root_ / "run/report.md");
  const End again = train(o, 1);
  EXPECT_EQ(again.parameters, whole.parameters);
  EXPECT_EQ(curve("run"), before);
}

TEST_F(TrainerTest, AResumeOnOtherRanksGivesTheSameRun) {
  const End whole = train(options("whole", 8), 1);
  TrainerOptions part = options("part", 8);
  std::atomic<int> signal{0};
  train(
      part, 4, {.granularity = "token"},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, std::span<float>) {
          if (step == 2) signal = 10;
        });
      },
      &signal);
  EXPECT_EQ(train(part, 2).parameters, whole.parameters);
}

TEST_F(TrainerTest, AFinishedRunOnlyShowsItsTableAgain) {
  const End first = train(options("run", 4), 1);
  const auto time = fs::last_write_time(root_ / "run/report.json");
  const End second = train(options("run", 4), 1);
  EXPECT_TRUE(second.result.finished);
  EXPECT_EQ(second.parameters, first.parameters);
  EXPECT_EQ(fs::last_write_time(root_ / "run/report.json"), time);
  EXPECT_THAT(second.result.table, ::testing::HasSubstr("32"));
}

// Gradients that are not finite say nothing against the parameters that gave the loss: they are saved as they were
// before the first skipped step.
TEST_F(TrainerTest, NonFiniteStepsAreSkippedCountedAndThenEndTheRunWithACheckpoint) {
  TrainerOptions o = options("run", 20);
  try {
    train(o, 2, {.granularity = "token"}, [](Trainer& trainer) {
      trainer.runner().set_gradient_hook([](std::int64_t step, std::int64_t micro_batch, std::span<float> flat) {
        if ((step == 2 || step >= 5) && micro_batch == 1) flat[0] = INFINITY;
      });
    });
    FAIL() << "a diverged run went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
  }
  const auto checkpoints = list_checkpoints(root_ / "run/checkpoints");
  ASSERT_EQ(checkpoints.size(), 1U);
  EXPECT_EQ(checkpoints[0].step, 5);  // steps 5, 6 and 7 in a row; the one at step 2 was forgiven
  const TrainState state = load_train_state(CheckpointReader::open(checkpoints[0].folder));
  EXPECT_EQ(state.skips_total, 1);
  EXPECT_EQ(state.skips_in_row, 0);
  EXPECT_EQ(state.consumed_samples, 5 * 16);
  // Without the cause the same command goes on as if there had been none.
  const Prepare second_step = [](Trainer& trainer) {
    trainer.runner().set_gradient_hook([](std::int64_t step, std::int64_t micro_batch, std::span<float> flat) {
      if (step == 2 && micro_batch == 1) flat[0] = INFINITY;
    });
  };
  const End resumed = train(o, 2, {.granularity = "token"}, second_step);
  EXPECT_EQ(resumed.parameters, train(options("whole", 20), 2, {.granularity = "token"}, second_step).parameters);
}

// A learning rate that wrecks the parameters at one step; `wreck` is the first that sees them.
TEST_F(TrainerTest, DivergenceLeavesTheNewestHealthyCheckpointInPlace) {
  TrainerOptions o = options("run", 6);
  o.checkpoint.every = 1, o.checkpoint.keep = 2;
  train(o, 2);
  o.train.steps = 30, o.lr.peak = 1e25, o.lr.warmup_steps = 0;
  for (int again = 0; again < 2; ++again) {  // nor does trying again eat up what is there
    try {
      train(o, 2);
      FAIL() << "a diverged run went on";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("healthy checkpoint is that of step 6"));
    }
    EXPECT_EQ(list_checkpoints(root_ / "run/checkpoints").back().step, 6);
    EXPECT_TRUE(fs::exists(root_ / "run/checkpoints/diverged"));
  }
  o.train.steps = 10, o.lr.peak = 1e-3;
  const End sane = train(o, 2);
  EXPECT_TRUE(sane.result.finished);
  EXPECT_EQ(sane.state.skips_total, 0);
}

TEST_F(TrainerTest, ARunThatEndsOnSkippedStepsHasDiverged) {
  TrainerOptions o = options("run", 4);
  o.checkpoint.every = 1, o.checkpoint.keep = 1;
  train(o, 1);
  o.train.steps = 6, o.lr.peak = 1e25, o.lr.warmup_steps = 0, o.train.max_skips = 10;
  EXPECT_THROW(train(o, 1), Error);
  EXPECT_EQ(list_checkpoints(root_ / "run/checkpoints").back().step, 4);
}

TEST_F(TrainerTest, GoingBackToAStepMakesItTheNewestBranch) {
  TrainerOptions o = options("run", 20);
  o.checkpoint.every = 4;
  train(o, 1);
  TrainerOptions back = o;
  back.run.resume = (root_ / "run/checkpoints/step_00000012").string();
  back.config_hash = 78, back.lr.peak = 1e-3, back.train.steps = 16, back.checkpoint.every = 1,
  back.checkpoint.keep = 2;
  EXPECT_EQ(train(back, 2).state.step, 16);
  const auto steps = [&] {
    std::string text;
    for (const CheckpointInfo& one : list_checkpoints(root_ / "run/checkpoints"))
      text += std::to_string(one.step) + " ";
    return text;
  };
  EXPECT_EQ(steps(), "12 15 16 ");  // what it stands on stays
  EXPECT_TRUE(fs::exists(root_ / "run/checkpoints/abandoned/step_00000020"));
  TrainerOptions on = back;
  on.run.resume = "auto", on.config_hash = 79, on.train.steps = 18, on.checkpoint.keep = 1;
  EXPECT_EQ(train(on, 1).state.branch_step, 12);
  EXPECT_EQ(steps(), "12 17 18 ");  // the newest healthy one beside the newest
  EXPECT_EQ(curve("run").size(), 18U);
  // The command that went back, given once more after another one has gone on: it goes back again.
  EXPECT_EQ(train(back, 1).state.step, 16);
  EXPECT_EQ(steps(), "12 15 16 ");
}

TEST_F(TrainerTest, TheSameCommandThatWentBackGoesOnWhenItIsStartedAgain) {
  TrainerOptions o = options("run", 12);
  o.checkpoint.every = 4, o.checkpoint.keep = 0;
  train(o, 1);
  TrainerOptions back = o;
  back.run.resume = (root_ / "run/checkpoints/step_00000004").string(), back.config_hash = 78;
  back.checkpoint.every = 1;
  std::atomic<int> signal{0};
  const auto stop_at = [&](std::int64_t at) {
    return [&signal, at](Trainer& trainer) {
      trainer.runner().set_gradient_hook([&signal, at](std::int64_t step, std::int64_t, std::span<float>) {
        if (step == at) signal = 15;
      });
    };
  };
  EXPECT_FALSE(train(back, 1, {.granularity = "token"}, stop_at(8), &signal).result.finished);
  signal = 0;
  std::int64_t first = -1;
  EXPECT_TRUE(train(back, 1, {.granularity = "token"}, [&](Trainer& trainer) {
                trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, std::span<float>) {
                  if (first < 0) first = step;
                });
              }).result.finished);
  EXPECT_GE(first, 8);
}

TEST_F(TrainerTest, AnotherFoldersCheckpointBecomesTheRunsOwn) {
  TrainerOptions a = options("a", 6);
  train(a, 1);
  TrainerOptions b = options("b", 4);
  train(b, 1);
  b.run.resume = (root_ / "a/checkpoints/step_00000006").string(), b.train.steps = 9, b.config_hash = 78;
  const End end = train(b, 1);
  EXPECT_EQ(end.state.branch_step, 6);
  EXPECT_TRUE(fs::exists(root_ / "b/checkpoints/step_00000006"));
  EXPECT_TRUE(fs::exists(root_ / "a/checkpoints/step_00000006"));
  a.train.steps = 9;
  EXPECT_EQ(end.parameters, train(a, 1).parameters);
}

// Samples follow those that were read, whatever the batch was.
TEST_F(TrainerTest, AnotherBatchSizeGoesOnWithTheNextUnreadSample) {
  TrainerOptions o = options("run", 4);
  o.lr = {.peak = 1e-30, .warmup_steps = 0}, o.optim.weight_decay = 0.0;
  o.precision = {.kind = "constant", .max_bits = 32};
  train(o, 1);
  o.train.batch_size = 4, o.train.steps = 6;
  const End end = train(o, 2);
  EXPECT_EQ(end.state.consumed_samples, 4 * 16 + 2 * 4);
  TrainerOptions small = o;
  small.run.dir = (root_ / "small").string(), small.train.steps = 18;
  train(small, 1);
  const auto mixed = curve("run"), all = curve("small");
  const auto loss = [](const std::string& line) {
    const std::size_t begin = line.find(' ') + 1;
    return line.substr(begin, line.find(' ', begin) - begin);
  };
  EXPECT_EQ(loss(mixed[4]), loss(all[16]));  // samples 64..67
  EXPECT_EQ(loss(mixed[5]), loss(all[17]));
}

TEST_F(TrainerTest, ASpikeIsSkippedOnceThereIsAWindowAndOnlyIfAskedFor) {
  // One batch whose loss stands out: the model is made to fail on it.
  const auto spike_at = [](std::int64_t at) {
    return [at](Trainer& trainer) {
      trainer.runner().set_loss_hook([at](std::int64_t step, double loss) { return step == at ? loss + 5.0 : loss; });
    };
  };
  TrainerOptions o = options("late", 20);
  o.precision = {.kind = "constant", .max_bits = 8};
  o.train.spike_deviations = 6.0, o.train.spike_window = 10;
  EXPECT_EQ(train(o, 2, {.granularity = "token"}, spike_at(15)).state.skips_total, 1);
  o.run.dir = (root_ / "early").string();
  EXPECT_EQ(train(o, 2, {.granularity = "token"}, spike_at(5)).state.skips_total, 0);
  o.run.dir = (root_ / "off").string(), o.train.spike_deviations = 0.0;
  EXPECT_EQ(train(o, 2, {.granularity = "token"}, spike_at(15)).state.skips_total, 0);
  // The statistics survive a resume.
  o.run.dir = (root_ / "part").string(), o.train.spike_deviations = 6.0, o.train.steps = 14;
  train(o, 1);
  o.train.steps = 20;
  EXPECT_EQ(train(o, 2, {.granularity = "token"}, spike_at(15)).state.skips_total, 1);
}

TEST_F(TrainerTest, KeepsTheBestCheckpointAndStopsEarly) {
  TrainerOptions o = options("run", 40);
  o.eval.every = 2, o.eval.patience = 3, o.eval.bits = {8};
  o.precision = {.kind = "constant", .max_bits = 8};
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

TEST_F(TrainerTest, EarlyStoppingIsTheSameOverAResume) {
  TrainerOptions o = options("whole", 40);
  o.eval.every = 2, o.eval.patience = 3, o.eval.bits = {8};
  o.precision = {.kind = "constant", .max_bits = 8};
  o.eval.min_delta = 2.0;
  const End whole = train(o, 1);
  o.run.dir = (root_ / "part").string();
  std::atomic<int> signal{0};
  // In an even step's last micro-batch: the evaluation due after it is left to the resumed run.
  train(
      o, 1, {.granularity = "token"},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t micro_batch, std::span<float>) {
          if (step == 3 && micro_batch == 7) signal = 15;
        });
      },
      &signal);
  const End resumed = train(o, 2);
  EXPECT_EQ(resumed.state.step, whole.state.step);
  EXPECT_EQ(resumed.state.best_loss, whole.state.best_loss);
  EXPECT_EQ(resumed.parameters, whole.parameters);
  EXPECT_EQ(read("part", "eval.jsonl"), read("whole", "eval.jsonl"));
}

TEST_F(TrainerTest, AFinishedRunIsEvaluatedAgainUnderOtherSettings) {
  TrainerOptions o = options("run", 4);
  train(o, 1);
  o.eval.bits = {4}, o.eval.max_tokens = 100;
  const End other = train(o, 2);
  EXPECT_THAT(other.result.table, ::testing::Not(::testing::HasSubstr("| 32")));
  EXPECT_EQ(parse_json(read("run", "report.json"), "report").at("widths").as_array().size(), 1U);
  const auto time = fs::last_write_time(root_ / "run/report.json");
  train(o, 1);
  EXPECT_EQ(fs::last_write_time(root_ / "run/report.json"), time);
}

TEST_F(TrainerTest, ABitFlippedOnOneReplicaIsFound) {
  TrainerOptions o = options("run", 6);
  o.train.replica_check_every = 2;
  const TokenSource tokens = test::tiny_tokens(), held_out = test::tiny_tokens(300);
  std::atomic<int> found{0};
  dist::run_local_ranks(4, [&](dist::Communicator& comm) {
    TinyModel mine;
    mine.config.freeze_base = true;  // frozen parameters are never sent again
    Gpt2 model(mine.config, mine.lora, o.quant, StepRunner::padding(comm.size()));
    model.init_random(o.run.seed);
    fs::create_directories(o.run.dir);
    Logger log({.dir = root_ / "logs", .rank = comm.rank()});
    Trainer trainer(
        o,
        {.model = model, .lora = mine.lora, .train_tokens = tokens, .val_tokens = held_out, .comm = comm, .log = log});
    trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t micro_batch, std::span<float>) {
      if (step != 2 || micro_batch != 2) return;  // the first of rank 1's two
      const at::NoGradGuard no_grad;
      std::int32_t* const word = model.parameters().tensor(0).view(at::kInt).data_ptr<std::int32_t>() + 5;
      *word ^= 1;
    });
    try {
      trainer.run();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kSelfCheck);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("rank 1 holds others"));
      ++found;
    }
  });
  EXPECT_EQ(found, 4);
  EXPECT_TRUE(list_checkpoints(root_ / "run/checkpoints").empty());
}

TEST_F(TrainerTest, CalibratedRangesAreKeptInTheCheckpoint) {
  const QuantizerConfig calibrated{.granularity = "tensor", .range = "calibrated"};
  const End whole = train(options("whole", 8), 1, calibrated);
  TrainerOptions part = options("part", 8);
  std::atomic<int> signal{0};
  train(
      part, 2, calibrated,
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, std::span<float>) {
          if (step == 3) signal = 15;
        });
      },
      &signal);
  const End resumed = train(part, 2, calibrated);
  EXPECT_EQ(resumed.parameters, whole.parameters);
}

// Evaluation calibrates widths that training has not reached; what training calibrates, and when, is its own.
TEST_F(TrainerTest, EvaluationChangesNoBitOfTrainingWithCalibratedRanges) {
  const QuantizerConfig calibrated{.granularity = "tensor", .range = "calibrated"};
  std::optional<End> first;
  for (const std::int64_t every : {0, 1, 5}) {
    TrainerOptions o = options("every " + std::to_string(every), 12);
    o.quant.widths = {2, 3, 4, 5, 6, 8, 32};
    o.eval.bits = {32, 8, 6, 4, 3, 2};
    o.eval.every = every;
    const End end = train(o, 2, calibrated);
    if (!first) first = end;
    EXPECT_EQ(end.parameters, first->parameters) << every;
    EXPECT_EQ(end.result.table, first->result.table) << every;
    EXPECT_EQ(curve("every " + std::to_string(every)), curve("every 0"));
  }
}

// The final table from the final checkpoint alone: with training's ranges where it has them, and for widths that it
// never used with those that the evaluation had of its own.
TEST_F(TrainerTest, TheFinalCheckpointHoldsTheRangesOfTheFinalTable) {
  for (const std::int64_t recalibrate_every : {0, 5}) {
    const std::string dir = "run " + std::to_string(recalibrate_every);
    TrainerOptions o = options(dir, 12);
    o.quant.widths = {2, 3, 4, 5, 6, 8, 32};
    o.eval.bits = {32, 8, 6, 3, 2};
    o.quant.recalibrate_every = recalibrate_every;
    o.quant.activation = {.granularity = "tensor", .range = "calibrated"};
    train(o, 2, o.quant.activation);
    const CheckpointReader reader =
        CheckpointReader::open(list_checkpoints(fs::path(o.run.dir) / "checkpoints").back().folder);
    TinyModel mine;
    mine.quant = o.quant;
    mine.build(/*seed=*/99);
    const auto comm = dist::make_single_comm();
    load_model(&reader, *mine.model, *comm, LoadFor::kEvaluation, o.config_json);
    const EvaluationRanges own = load_evaluation_ranges(&reader, *mine.model, *comm);
    EXPECT_TRUE(own.contains(2));
    EXPECT_FALSE(own.contains(8));                      // in force since step 11
    EXPECT_EQ(own.contains(3), recalibrate_every > 0);  // since step 6, before the last multiple of 5
    const TokenSource held_out = test::tiny_tokens(300);
    dist::StopPoll never(*comm);
    const auto scores =
        *score_widths(*mine.model, held_out, {32, 8, 6, 3, 2}, mine.quant, o.eval, 12, 1, *comm, never, own);
    const Value report = parse_json(read(dir, "report.json"), "report.json");
    for (std::size_t i = 0; i < scores.size(); ++i)
      EXPECT_EQ(report.at("widths").as_array()[i].at("nll").as_double(), scores[i].score.nll_sum) << scores[i].bits;
  }
}

TEST_F(TrainerTest, RangesTakenAnewAreTheSameRunOnAnyRanksAndAfterAResume) {
  const QuantizerConfig calibrated{.granularity = "tensor", .range = "calibrated"};
  const auto with = [&](const std::string& dir, std::int64_t every) {
    TrainerOptions o = options(dir, 12);
    o.quant.recalibrate_every = every;
    return o;
  };
  const End kept = train(with("kept", 0), 1, calibrated), renewed = train(with("renewed", 5), 1, calibrated);
  EXPECT_NE(renewed.parameters, kept.parameters);
  EXPECT_EQ(train(with("ranks", 5), 4, calibrated).parameters, renewed.parameters);
  for (const int stop : {4, 5, 7}) {
    const TrainerOptions part = with("part " + std::to_string(stop), 5);
    std::atomic<int> signal{0};
    const End stopped = train(
        part, 2, calibrated,
        [&](Trainer& trainer) {
          trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, std::span<float>) {
            if (step == stop) signal = 15;
          });
        },
        &signal);
    ASSERT_FALSE(stopped.result.finished);
    EXPECT_EQ(train(part, 2, calibrated).parameters, renewed.parameters) << "stopped in step " << stop;
  }
}

TEST_F(TrainerTest, RefusesACheckpointOfAnotherShapeAndSaysWhatDiffers) {
  train(options("run", 4), 1);
  TrainerOptions other = options("run", 8);
  other.config_json = R"({"model": {"n_layer": 3}})";
  try {
    train(other, 1);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("model.n_layer: 2 in the checkpoint, 3 now"));
  }
}

TEST_F(TrainerTest, OtherTrainingTokensAreRefusedOnResumeUnlessTheyAreAllowed) {
  train(options("run", 4), 2);
  train_tokens_ = 4001;
  TrainerOptions o = options("run", 8);
  try {
    train(o, 2);
    FAIL() << "accepted";
  } catch (const dist::AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("tiny has other content: 4000 tokens"));
  }
  // A finished run trains no more: its table may be shown.
  EXPECT_TRUE(train(options("run", 4), 2).result.finished);
  EXPECT_THAT(read("run", "logs/rank_000.log"), ::testing::HasSubstr("warning: data.train is not what"));
  o.data.allow_change = true;
  EXPECT_EQ(train(o, 2).state.step, 8);
  // From here on these are the run's tokens.
  o = options("run", 12);
  EXPECT_EQ(train(o, 1).state.step, 12);
}

TEST_F(TrainerTest, OtherHeldOutTokensAreSaidOnResume) {
  train(options("run", 4), 1);
  held_out_tokens_ = 200;
  EXPECT_EQ(train(options("run", 8), 1).state.step, 8);
  EXPECT_THAT(read("run", "logs/rank_000.log"), ::testing::HasSubstr("warning: data.val is not what it was"));
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
    TinyModel spec;
    spec.quant = o.quant;
    test::TinyRank rank(
        spec, tokens, *comm,
        {.seed = 5, .sequence_length = 12, .train = o.train, .optim = o.optim, .stochastic_gradients = stochastic});
    const Coordinator coordinator(o, rank.sampler().windows_per_epoch());
    for (std::int64_t step = 0; step < 5; ++step) {
      const dist::StepPlan plan = coordinator.plan({.step = step, .samples = step * 16});
      const PrecisionMap map = PrecisionMap::make(
          rank.model().linear_names(), {BitWidth(plan.weight_bits), BitWidth(7), BitWidth(plan.gradient_bits)},
          o.quant.overrides);
      (void)rank.runner().run(plan, map, rank.poll());
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
  train(o, 1, {.granularity = "token"}, [](Trainer& trainer) {
    trainer.runner().set_gradient_hook([](std::int64_t step, std::int64_t, std::span<float> flat) {
      if (step == 5) flat[0] = NAN;
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
  // After each step, and again when its checkpoint is there.
  EXPECT_EQ(told, (std::vector<std::int64_t>{0, 1, 2, 2, 3, 4, 4, 5, 6, 6, 7, 8, 8, 9, 9}));
  EXPECT_EQ(fs::path(newest), all[1].folder);
}

// One rank's memory does not suffice for passes of two sequences: all of them go on with passes of one.
TEST_F(TrainerTest, TheStepThatMemoryDoesNotSufficeForIsDoneAgainInSmallerPasses) {
  TrainerOptions o = options("run", 6);
  o.train.on_out_of_memory = "smaller_micro_batch";
  const auto hook = [](bool always) {
    return [always](Trainer& trainer) {
      StepRunner* const runner = &trainer.runner();
      runner->set_gradient_hook([=](std::int64_t step, std::int64_t micro_batch, std::span<float>) {
        if (step >= 3 && micro_batch * runner->micro_batch_size() >= 8 && (always || runner->micro_batch_size() > 1))
          throw std::bad_alloc();
      });
    };
  };
  ASSERT_EQ(o.train.micro_batch_size, 2);
  const End end = train(o, 2, {.granularity = "token"}, hook(false));
  EXPECT_EQ(end.state.step, 6);
  EXPECT_THAT(read("run", "logs/rank_000.log"),
              ::testing::HasSubstr("out of memory on rank 1 in step 3: from this step on, passes are of 1 sequences"));

  // The same as a run that has had small passes from that step on.
  TrainerOptions large = options("parts", 6);
  large.checkpoint.every = 3, large.checkpoint.keep = 0;
  train(large, 2);
  fs::remove_all(root_ / "parts/checkpoints/step_00000006");
  TrainerOptions rest = options("parts", 6);
  rest.train.micro_batch_size = 1;
  EXPECT_EQ(train(rest, 2).parameters, end.parameters);

  TrainerOptions hopeless = options("hopeless", 6);
  hopeless.train.on_out_of_memory = "smaller_micro_batch";
  try {
    train(hopeless, 2, {.granularity = "token"}, hook(true));
    FAIL() << "finished";
  } catch (const dist::AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kOutOfMemory);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("passes of one sequence"));
  }
}

// Squares that fp32 cannot hold, of gradients that it can.
TEST_F(TrainerTest, AnUpdateThatWouldNotBeFiniteEndsTheRunAndIsNotSaved) {
  TrainerOptions o = options("run", 8);
  o.checkpoint.every = 2;
  o.optim.clip_norm = 0.0;
  try {
    train(o, 2, {.granularity = "token"}, [](Trainer& trainer) {
      trainer.runner().set_gradient_hook([](std::int64_t step, std::int64_t micro_batch, std::span<float> flat) {
        if (step == 5 && micro_batch == 0) flat[0] = 1e30F;
      });
    });
    FAIL() << "finished";
  } catch (const dist::AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("would have made parameters or AdamW's moments infinite"));
  }
  EXPECT_EQ(list_checkpoints(root_ / "run/checkpoints").back().step, 4);
}

TEST_F(TrainerTest, ADamagedNewestCheckpointIsPassedOverOrAnErrorWhenStrict) {
  TrainerOptions o = options("run", 8);
  o.checkpoint.every = 4;
  const End whole = train(o, 1);
  const fs::path newest = root_ / "run/checkpoints/step_00000008/checkpoint.h5";
  const auto damage = [&] {
    std::fstream file(newest, std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(fs::file_size(newest) / 2));
    file << "damage";
  };
  damage();
  o.strict = true;
  try {
    train(o, 1);
    FAIL() << "went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("step_00000008"),
                                               ::testing::HasSubstr("take instead: step_00000004")));
  }
  o.strict = false;
  fs::remove(root_ / "run/report.md");
  EXPECT_EQ(train(o, 1).parameters, whole.parameters);
  std::ifstream in(root_ / "run/logs/rank_000.log");
  const std::string log{std::istreambuf_iterator<char>(in), {}};
  EXPECT_THAT(log, ::testing::HasSubstr("warning: passing over step 8, taking step 4 in its place"));
  EXPECT_TRUE(CheckpointReader::open(newest.parent_path()).info().step == 8);  // saved again
}

TEST_F(TrainerTest, NeverRefusesAFolderThatHoldsARun) {
  TrainerOptions o = options("run", 4);
  o.run.resume = "never";
  EXPECT_TRUE(train(o, 1).result.finished);
  try {
    train(o, 1);
    FAIL() << "went on";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr("holds a run up to step 4"));
  }
}

TEST_F(TrainerTest, ASignalBeforeTheTableLeavesTheTableToTheNextStart) {
  std::atomic<int> signal{0};
  const TrainerOptions o = options("run", 4);
  const End end = train(
      o, 2, {.granularity = "token"},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t micro_batch, std::span<float>) {
          if (step == 3 && micro_batch == 7) signal = 15;
        });
      },
      &signal);
  EXPECT_FALSE(end.result.finished);
  EXPECT_EQ(end.result.signal, 15);
  EXPECT_EQ(list_checkpoints(root_ / "run/checkpoints").back().step, 4);
  EXPECT_FALSE(fs::exists(root_ / "run/report.md"));
  EXPECT_TRUE(train(o, 1).result.finished);
  EXPECT_TRUE(fs::exists(root_ / "run/report.md"));
}

TEST_F(TrainerTest, ASignalBeforeTheFirstStepLeavesNothingBehind) {
  std::atomic<int> signal{15};
  EXPECT_FALSE(train(options("run", 4), 2, {.granularity = "token"}, {}, &signal).result.finished);
  EXPECT_TRUE(list_checkpoints(root_ / "run/checkpoints").empty());
}

// A step given up on the way: the checkpoint is of the steps before it, and the resumed run is the same run.
TEST_F(TrainerTest, ASignalInALongStepIsObeyedBetweenMicroBatches) {
  const End whole = train(options("whole", 4), 2);
  std::atomic<int> signal{0};
  std::atomic<int> passes{0};
  const TrainerOptions o = options("part", 4);
  const End stopped = train(
      o, 2, {.granularity = "token"},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, std::span<float>) {
          if (step == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1500));  // each pass asks
          if (step == 0 && ++passes == 2) signal = 15;
        });
      },
      &signal);
  EXPECT_EQ(stopped.state.step, 0);
  EXPECT_LT(passes, 8);
  EXPECT_EQ(train(o, 2).parameters, whole.parameters);
}

TEST_F(TrainerTest, AnOldReportDoesNotEndARunWithStepsToDo) {
  const TrainerOptions o = options("run", 4);
  fs::create_directories(o.run.dir);
  std::ofstream(root_ / "run/report.md") << "old";
  EXPECT_EQ(train(o, 1).state.step, 4);
}

TEST_F(TrainerTest, CalibratesOnAsManyBatchesAsAsked) {
  TrainerOptions o = options("run", 4);
  o.quant.calibration_batches = 4;
  train(o, 2, {.granularity = "tensor", .range = "calibrated"});
  const auto reader = CheckpointReader::open(list_checkpoints(root_ / "run/checkpoints").back().folder);
  EXPECT_EQ(reader.attribute<std::int64_t>("/quant/h.0.attn.c_attn/activation/3/lo", "batches"), 4);
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

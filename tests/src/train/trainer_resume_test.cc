// Runs that are stopped, started again, or sent back to a step.
#include <thread>

#include "dist/comm/agree.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TrainerTest;

TEST_F(TrainerTest, ARunStoppedAndResumedContinuesBitForBit) {
  const End whole = train(options("whole", 12), 2);
  ASSERT_TRUE(whole.result.finished);
  TrainerOptions part = options("part", 12);
  part.checkpoint.every = 5;
  std::atomic<int> signal{0};
  const End stopped = train(
      part, 2, {.granularity = Granularity::kToken},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, int, const at::Tensor&) {
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
      part, 4, {.granularity = Granularity::kToken},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, int, const at::Tensor&) {
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
      trainer.runner().set_gradient_hook([&signal, at](std::int64_t step, std::int64_t, int, const at::Tensor&) {
        if (step == at) signal = 15;
      });
    };
  };
  EXPECT_FALSE(train(back, 1, {.granularity = Granularity::kToken}, stop_at(8), &signal).result.finished);
  signal = 0;
  std::int64_t first = -1;
  EXPECT_TRUE(train(back, 1, {.granularity = Granularity::kToken}, [&](Trainer& trainer) {
                trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, int, const at::Tensor&) {
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
  o.precision = {.kind = ScheduleKind::kConstant, .max_bits = 32};
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

TEST_F(TrainerTest, EarlyStoppingIsTheSameOverAResume) {
  TrainerOptions o = options("whole", 40);
  o.eval.every = 2, o.eval.patience = 3, o.eval.bits = {8};
  o.precision = {.kind = ScheduleKind::kConstant, .max_bits = 8};
  o.eval.min_delta = 2.0;
  const End whole = train(o, 1);
  o.run.dir = (root_ / "part").string();
  std::atomic<int> signal{0};
  // In an even step's last micro-batch: the evaluation due after it is left to the resumed run.
  train(
      o, 1, {.granularity = Granularity::kToken},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t micro_batch, int, const at::Tensor&) {
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
      o, 2, {.granularity = Granularity::kToken},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t micro_batch, int, const at::Tensor&) {
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
  EXPECT_FALSE(train(options("run", 4), 2, {.granularity = Granularity::kToken}, {}, &signal).result.finished);
  EXPECT_TRUE(list_checkpoints(root_ / "run/checkpoints").empty());
}

// A step given up on the way: the checkpoint is of the steps before it, and the resumed run is the same run.
TEST_F(TrainerTest, ASignalInALongStepIsObeyedBetweenMicroBatches) {
  const End whole = train(options("whole", 4), 2);
  std::atomic<int> signal{0};
  std::atomic<int> passes{0};
  const TrainerOptions o = options("part", 4);
  const End stopped = train(
      o, 2, {.granularity = Granularity::kToken},
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, int id, const at::Tensor&) {
          if (id != 0) return;
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

}  // namespace
}  // namespace qat

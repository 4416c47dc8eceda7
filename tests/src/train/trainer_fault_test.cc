// Runs with something wrong: steps that are not finite, too little memory, damage.
#include <cmath>
#include <functional>

#include "dist/comm/agree.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TrainerTest;

// Gradients that are not finite say nothing against the parameters that gave the loss: they are saved as they were
// before the first skipped step.
TEST_F(TrainerTest, NonFiniteStepsAreSkippedCountedAndThenEndTheRunWithACheckpoint) {
  TrainerOptions o = options("run", 20);
  try {
    train(o, 2, {.granularity = Granularity::kToken}, [](Trainer& trainer) {
      trainer.runner().set_gradient_hook(
          [](std::int64_t step, std::int64_t micro_batch, int id, const at::Tensor& gradient) {
            if ((step == 2 || step >= 5) && micro_batch == 1 && id == 0) gradient[0].fill_(INFINITY);
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
    trainer.runner().set_gradient_hook(
        [](std::int64_t step, std::int64_t micro_batch, int id, const at::Tensor& gradient) {
          if (step == 2 && micro_batch == 1 && id == 0) gradient[0].fill_(INFINITY);
        });
  };
  const End resumed = train(o, 2, {.granularity = Granularity::kToken}, second_step);
  EXPECT_EQ(resumed.parameters,
            train(options("whole", 20), 2, {.granularity = Granularity::kToken}, second_step).parameters);
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

TEST_F(TrainerTest, ASpikeIsSkippedOnceThereIsAWindowAndOnlyIfAskedFor) {
  // One batch whose loss stands out: the model is made to fail on it.
  const auto spike_at = [](std::int64_t at) {
    return [at](Trainer& trainer) {
      trainer.runner().set_loss_hook([at](std::int64_t step, double loss) { return step == at ? loss + 5.0 : loss; });
    };
  };
  TrainerOptions o = options("late", 20);
  o.precision = {.kind = ScheduleKind::kConstant, .max_bits = 8};
  o.train.spike_deviations = 6.0, o.train.spike_window = 10;
  EXPECT_EQ(train(o, 2, {.granularity = Granularity::kToken}, spike_at(15)).state.skips_total, 1);
  o.run.dir = (root_ / "early").string();
  EXPECT_EQ(train(o, 2, {.granularity = Granularity::kToken}, spike_at(5)).state.skips_total, 0);
  o.run.dir = (root_ / "off").string(), o.train.spike_deviations = 0.0;
  EXPECT_EQ(train(o, 2, {.granularity = Granularity::kToken}, spike_at(15)).state.skips_total, 0);
  // The statistics survive a resume.
  o.run.dir = (root_ / "part").string(), o.train.spike_deviations = 6.0, o.train.steps = 14;
  train(o, 1);
  o.train.steps = 20;
  EXPECT_EQ(train(o, 2, {.granularity = Granularity::kToken}, spike_at(15)).state.skips_total, 1);
}

TEST_F(TrainerTest, ABitFlippedOnOneReplicaIsFound) {
  TrainerOptions o = options("run", 6);
  o.train.replica_check_every = 2;
  const TokenSource tokens = test::tiny_tokens(), held_out = test::tiny_tokens(300);
  std::atomic<int> found{0};
  dist::run_local_ranks(4, [&](dist::Communicator& comm) {
    test::TinyModel mine;
    mine.config.freeze_base = true;  // frozen parameters are never sent again
    Gpt2 model(mine.config, mine.lora, o.quant, StepRunner::padding(comm.size()));
    model.init_random(o.run.seed);
    fs::create_directories(o.run.dir);
    Logger log({.dir = root_ / "logs", .rank = comm.rank()});
    const Sampler samples(tokens, o.data.sequence_length, o.run.seed);
    const HeldOutText text(held_out);
    Trainer trainer(o, {.model = model, .samples = samples, .held_out = text, .grid = comm, .log = log});
    trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t micro_batch, int id, const at::Tensor&) {
      const bool first = model.parameters().info(id).trainable_index == 0;  // once a micro-batch
      if (step != 2 || micro_batch != 2 || !first) return;                  // the first of rank 1's two
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

// One rank's memory does not suffice for passes of two sequences: all of them go on with passes of one.
TEST_F(TrainerTest, TheStepThatMemoryDoesNotSufficeForIsDoneAgainInSmallerPasses) {
  TrainerOptions o = options("run", 6);
  o.train.on_out_of_memory = OnOutOfMemory::kSmallerMicroBatch;
  const auto hook = [](bool always) {
    return [always](Trainer& trainer) {
      StepRunner* const runner = &trainer.runner();
      runner->set_gradient_hook([=](std::int64_t step, std::int64_t micro_batch, int, const at::Tensor&) {
        if (step >= 3 && micro_batch * runner->micro_batch_size() >= 8 && (always || runner->micro_batch_size() > 1))
          throw std::bad_alloc();
      });
    };
  };
  ASSERT_EQ(o.train.micro_batch_size, 2);
  const End end = train(o, 2, {.granularity = Granularity::kToken}, hook(false));
  EXPECT_EQ(end.state.step, 6);
  EXPECT_THAT(read("run", "logs/rank_000.log"),
              ::testing::HasSubstr("out of memory on rank 1 in step 4: from this step on, passes are of 1 sequences"));

  // The same as a run that has had small passes from that step on.
  TrainerOptions large = options("parts", 6);
  large.checkpoint.every = 3, large.checkpoint.keep = 0;
  train(large, 2);
  fs::remove_all(root_ / "parts/checkpoints/step_00000006");
  TrainerOptions rest = options("parts", 6);
  rest.train.micro_batch_size = 1;
  EXPECT_EQ(train(rest, 2).parameters, end.parameters);

  TrainerOptions hopeless = options("hopeless", 6);
  hopeless.train.on_out_of_memory = OnOutOfMemory::kSmallerMicroBatch;
  try {
    train(hopeless, 2, {.granularity = Granularity::kToken}, hook(true));
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
    train(o, 2, {.granularity = Granularity::kToken}, [](Trainer& trainer) {
      trainer.runner().set_gradient_hook(
          [](std::int64_t step, std::int64_t micro_batch, int id, const at::Tensor& gradient) {
            if (step == 5 && micro_batch == 0 && id == 0) gradient[0].fill_(1e30F);
          });
    });
    FAIL() << "finished";
  } catch (const dist::AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("would have made parameters or AdamW's moments infinite"));
  }
  EXPECT_EQ(list_checkpoints(root_ / "run/checkpoints").back().step, 4);
}

void expect_step_2_is_not_saved(const std::function<void()>& run) {
  try {
    run();
    FAIL() << "went on";
  } catch (const dist::AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("cannot save the checkpoint of step 2"));
  }
}

// A folder that cannot be made, since a file has its name.
TEST_F(TrainerTest, ASaveThatFailsEndsTheRunOnAllRanksOrIsAWarning) {
  TrainerOptions o = options("run", 4);
  o.checkpoint.every = 2;
  fs::create_directories(root_ / "run");
  std::ofstream(root_ / "run/checkpoints") << "in the way";
  expect_step_2_is_not_saved([&] { train(o, 2); });
  o.checkpoint.on_error = OnSaveError::kContinue;
  // To the end, and with its table. What it has learned is lost: no run that has finished.
  try {
    (void)train(o, 2);
    FAIL() << "finished without a checkpoint";
  } catch (const dist::AgreedError& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("cannot save the checkpoint of step 4"),
                                               ::testing::HasSubstr("it has no checkpoint")));
  }
  EXPECT_THAT(read("run", "logs/rank_000.log"), ::testing::HasSubstr("training goes on (checkpoint.on_error)"));
  EXPECT_TRUE(fs::exists(root_ / "run/report.json"));
}

// The folder is lost as soon as the first checkpoint is told of, which is before the next one is begun.
TEST_F(TrainerTest, ASaveThatFailsLeavesWordOfTheCheckpointBeforeIt) {
  TrainerOptions o = options("run", 6);
  o.checkpoint.every = 1;
  std::vector<std::string> told;
  on_progress_ = [&](std::int64_t, const std::string& checkpoint) {
    if (checkpoint.empty() || !told.empty()) return;
    told.push_back(checkpoint);
    EXPECT_EQ(list_checkpoints(root_ / "run/checkpoints").size(), 1U);
    fs::rename(root_ / "run/checkpoints", root_ / "run/elsewhere");
    std::ofstream(root_ / "run/checkpoints") << "in the way";
  };
  expect_step_2_is_not_saved([&] { train(o, 2); });
  ASSERT_EQ(told.size(), 1U);
  EXPECT_THAT(told[0], ::testing::EndsWith("step_00000001"));
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

}  // namespace
}  // namespace qat

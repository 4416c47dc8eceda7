// A run that is told to stop: by the launcher, by a signal to one rank, at any moment.
#include <sys/prctl.h>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Stop : public Cli {
 protected:
  // Steps of seconds: eight passes of a model of ten million parameters on two ranks.
  static constexpr const char* kSlow =
      "--set model.preset=mini --set data.sequence_length=128 --set train.batch_size=16 --set train.micro_batch_size=2 "
      "--set train.steps=1000 --set precision.kind=constant";
  static constexpr const char* kEndless = "--set train.steps=100000";

  std::string on_ranks_of_mpirun(int ranks, const std::string& options = "") const {
    return "mpirun --allow-run-as-root --oversubscribe --bind-to none --mca btl self,vader --mca pml ob1 "
           "--mca btl_vader_single_copy_mechanism none " +
           options + " -np " + std::to_string(ranks) + " " + program();
  }
  bool has_begun(const std::string& dir) const {
    return wait_for([&] { return steps(dir) > 2; }, 100.0);
  }
  void expect_a_clean_stop(const std::string& dir, const Outcome& end, int code) const {
    EXPECT_EQ(end.exit_code, code) << end.text;
    EXPECT_NE(checkpoints(dir), "") << end.text;
    EXPECT_FALSE(is_locked(dir));
    EXPECT_EQ(count(end.text, "stopped by"), 1U) << end.text;
  }
};

TEST_F(Stop, TheWrapperPassesEverySignalOnAndReturnsTheRightCode) {
  struct Case {
    int signal;
    const char* name;
    int code;
  };
  for (const Case& one : {Case{SIGTERM, "SIGTERM", 75}, Case{SIGINT, "SIGINT", 130}, Case{SIGHUP, "SIGHUP", 75}}) {
    const std::string dir = "signal" + std::to_string(one.signal);
    Process run(on_ranks(2) + tiny(dir, kEndless));
    ASSERT_TRUE(has_begun(dir)) << run.text();
    run.signal(one.signal);
    const Outcome end = run.wait();
    expect_a_clean_stop(dir, end, one.code);
    EXPECT_THAT(end.text, HasSubstr(std::string("stopped by ") + one.name));
  }
}

// As Ubuntu 24.04's Open MPI 4.1.6 does with SIGUSR1.
TEST_F(Stop, TheWrapperNeedsNoMpirunThatPassesSignalsOn) {
  const std::string mpirun = write("mpirun", R"(#!/bin/bash
if [ "$1" = --version ]; then echo 'mpirun (Open MPI) 4.1.6'; exit; fi
trap : USR1 USR2
while [ "$1" != -n ]; do shift; done
setsid "${@:3}" &
while kill -0 $! 2> /dev/null; do wait $!; code=$?; done
exit $code
)");
  fs::permissions(mpirun, fs::perms::owner_all);
  Process run("env PATH=" + quote(root_.string()) + ":\"$PATH\" " + on_ranks(1) + tiny("run", kEndless));
  ASSERT_TRUE(has_begun("run")) << run.text();
  run.signal(SIGTERM);
  expect_a_clean_stop("run", run.wait(20.0), 75);
}

TEST_F(Stop, ALongStepIsNoReasonToLoseTheRun) {
  Process run(on_ranks(2) + tiny("run", kSlow));
  ASSERT_TRUE(wait_for([&] { return steps("run") > 0; }, 200.0)) << run.text();
  run.signal(SIGTERM);
  expect_a_clean_stop("run", run.wait(), 75);
}

TEST_F(Stop, OneRankAloneIsEnough) {
  Process run(on_ranks(3) + tiny("run", std::string(kEndless) + " --set train.batch_size=12"));
  ASSERT_TRUE(has_begun("run")) << run.text();
  kill(locked_by("run"), SIGINT);
  expect_a_clean_stop("run", run.wait(), 130);
}

TEST_F(Stop, MpirunItselfTakesSigusr2) {
  Process run(on_ranks_of_mpirun(2) + tiny("run", kEndless));
  ASSERT_TRUE(has_begun("run")) << run.text();
  EXPECT_THAT(run.text(), HasSubstr("odls_base_sigkill_timeout"));  // what to do about its other signals
  run.signal(SIGUSR2);
  expect_a_clean_stop("run", run.wait(), 75);
}

TEST_F(Stop, MpirunWithTheDocumentedOptionLeavesARunThatGoesOn) {
  Process run(on_ranks_of_mpirun(2, "--mca odls_base_sigkill_timeout 10") + tiny("run", kEndless));
  ASSERT_TRUE(has_begun("run")) << run.text();
  EXPECT_THAT(run.text(), Not(HasSubstr("odls_base_sigkill_timeout")));
  run.signal(SIGTERM);
  const Outcome end = run.wait();
  EXPECT_GE(end.exit_code, 0) << "still running";  // whatever mpirun makes of it
  EXPECT_NE(checkpoints("run"), "") << end.text;
  EXPECT_FALSE(is_locked("run"));
}

TEST_F(Stop, DuringAnEvaluationTheCheckpointIsThereAndTheEvaluationComesAgain) {
  const std::string options =
      "--set train.steps=40 --set eval.every=10 --set eval.max_tokens=0 --set eval.batch_size=1 --set eval.stride=1 ";
  Process run(on_ranks(2) + tiny("run", options));
  ASSERT_TRUE(wait_for([&] { return steps("run") == 10; }, 100.0)) << run.text();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // into the evaluation, which takes minutes
  ASSERT_EQ(steps("run"), 10U);
  const auto told = std::chrono::steady_clock::now();
  run.signal(SIGTERM);
  expect_a_clean_stop("run", run.wait(), 75);
  EXPECT_LT(std::chrono::steady_clock::now() - told, std::chrono::seconds(15));
  EXPECT_EQ(checkpoints("run"), "step_00000010 ");
  // The evaluation that was cut short is made first when the run goes on.
  const Outcome on = shell(program() + tiny("run",
                                            "--set train.steps=11 --set precision.cycles=1 --set eval.every=10 "
                                            "--set eval.max_tokens=200"));
  ASSERT_EQ(on.exit_code, 0) << on.text;
  EXPECT_THAT(content(root_ / "run/eval.jsonl"), HasSubstr("\"step\":10"));
}

TEST_F(Stop, DuringTheFinalEvaluationTheNextStartMakesTheTable) {
  const std::string slow = "--set eval.max_tokens=0 --set eval.batch_size=1 --set eval.stride=1";
  Process run(on_ranks(2) + tiny("run", slow));
  ASSERT_TRUE(wait_for([&] { return checkpoints("run") == "step_00000020 "; }, 100.0)) << run.text();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  run.signal(SIGINT);
  expect_a_clean_stop("run", run.wait(), 130);
  const Outcome on = shell(program() + tiny("run"));
  EXPECT_EQ(on.exit_code, 0) << on.text;
  EXPECT_THAT(on.text, HasSubstr("Perplexity"));
}

TEST_F(Stop, DuringCalibration) {
  Process run(on_ranks(2) + tiny("run",
                                 "--set quant.activation.range=calibrated --set quant.activation.granularity=tensor "
                                 "--set quant.calibration_batches=1000000"));
  ASSERT_TRUE(wait_for([&] { return count(run.text(), "calibrating") > 0; }, 100.0)) << run.text();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  run.signal(SIGTERM);
  const Outcome end = run.wait(30.0);
  EXPECT_EQ(end.exit_code, 75) << end.text;
  EXPECT_FALSE(is_locked("run"));
}

TEST_F(Stop, ASecondSignalEndsAtOnce) {
  Process run(on_ranks(2) + tiny("run", kSlow));
  ASSERT_TRUE(wait_for([&] { return is_locked("run"); }, 100.0)) << run.text();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  const pid_t rank0 = locked_by("run");
  run.signal(SIGINT);
  std::this_thread::sleep_for(std::chrono::milliseconds(700));
  run.signal(SIGINT);
  const Outcome end = run.wait(30.0);
  EXPECT_EQ(end.exit_code, 130) << end.text;
  EXPECT_TRUE(wait_for([&] { return kill(rank0, 0) != 0; }, 10.0));
  fs::remove_all(root_ / "run/checkpoints");  // of a machine so fast that the first signal was enough
  const Outcome next = shell(program() + tiny("run", "--set train.steps=2 --set precision.kind=constant"));
  EXPECT_EQ(next.exit_code, 0) << "the lock of a dead process is taken over:\n" << next.text;
}

TEST_F(Stop, AReaderThatGoesAwayEndsNothing) {
  const auto bash = [](const std::string& command) { return shell("bash -c " + quote("set -o pipefail; " + command)); };
  const Outcome run = bash(on_ranks(2) + tiny("run", "--set train.steps=30") + " 2>&1 | head -n 2");
  EXPECT_EQ(run.exit_code, 0) << run.text;
  EXPECT_EQ(steps("run"), 30U);
  EXPECT_TRUE(fs::exists(root_ / "run/report.md"));
  const Outcome alone = bash(program() + tiny("alone", "--set train.steps=30") + " | head -n 1");
  EXPECT_EQ(alone.exit_code, 0) << alone.text;
  EXPECT_TRUE(fs::exists(root_ / "alone/report.md"));
}

TEST_F(Stop, AFullDiskForRecordsSavesTheRunFirst) {
  if (geteuid() != 0 || shell("unshare -m true").exit_code != 0) GTEST_SKIP() << "needs a mount namespace";
  // The disk of metrics.jsonl takes one page.
  const std::string small = quote((root_ / "small").string());
  fs::create_directories(root_ / "run");
  fs::create_directories(root_ / "small");
  fs::create_symlink(root_ / "small/metrics.jsonl", root_ / "run/metrics.jsonl");
  const std::string run = on_ranks(2) + tiny("run", "--set train.steps=40");
  const Outcome end = shell("unshare -m bash -c " + quote("mount -t tmpfs -o size=4k none " + small + " && " + run));
  EXPECT_EQ(end.exit_code, 4) << end.text;
  EXPECT_THAT(end.text, AllOf(HasSubstr("metrics.jsonl"), HasSubstr("No space left"), HasSubstr("last step"),
                              HasSubstr("checkpoints/step_000000")));
  EXPECT_EQ(count(end.text, "qat_dist stopped"), 1U) << end.text;
  EXPECT_NE(checkpoints("run"), "");
  const Outcome on = shell(run);
  EXPECT_EQ(on.exit_code, 0) << on.text;
  EXPECT_THAT(on.text, HasSubstr("resuming after step"));
}

}  // namespace
}  // namespace qat::cli

// `qat_dist sweep`: many runs of one configuration.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class SweepRuns : public Cli {
 protected:
  std::string sweep(const std::string& set, const std::string& more = "") const {
    const std::string text = "{\"config\": \"" + source_ + "/configs/tiny_cpu.json\", \"runs_dir\": \"" +
                             (root_ / "runs").string() +
                             "\", \"fixed\": {\"train.steps\": 4, \"precision.cycles\": 1, \"eval.max_tokens\": 128}, "
                             "\"set\": " +
                             set + "}";
    return program() + " sweep " + quote(write("sweep.json", text)) + " " + more;
  }
};

TEST_F(SweepRuns, RunsEveryCombinationOnceAndShowsOneTable) {
  const std::string command = sweep(R"({"lr.peak": [1e-3, 2e-3], "train.batch_size": [4, 8]})", "--format markdown");
  const Outcome first = shell(command);
  EXPECT_EQ(first.exit_code, 0) << first.text;
  EXPECT_EQ(count(first.text, "| finished |"), 4U) << first.text;
  EXPECT_THAT(first.text, AllOf(HasSubstr("| lr.peak | train.batch_size | state"), HasSubstr("perplexity at 8")));
  EXPECT_THAT(content(root_ / "runs" / "sweep.json"), HasSubstr("\"state\": \"finished\""));
  // What is missing is run again, and nothing else.
  fs::remove_all(root_ / "runs" / "lr.peak=0.001,train.batch_size=8");
  const Outcome again = shell(command);
  EXPECT_EQ(again.exit_code, 0) << again.text;
  EXPECT_EQ(count(again.text, "finished before"), 3U) << again.text;
  EXPECT_EQ(first.text.substr(first.text.find("| lr.peak")), again.text.substr(again.text.find("| lr.peak")));
}

TEST_F(SweepRuns, ABadKeyIsRefusedBeforeTheFirstRun) {
  const Outcome outcome = shell(sweep(R"({"train.steps": [4, 8], "lr.peek": [1]})"));
  EXPECT_EQ(outcome.exit_code, 2) << outcome.text;
  EXPECT_THAT(outcome.text, HasSubstr("lr.peek"));
  EXPECT_FALSE(fs::exists(root_ / "runs"));
}

TEST_F(SweepRuns, ARunThatFailsDoesNotStopTheOthers) {
  const Outcome outcome = shell(sweep(R"({"data.train": [["nowhere.bin"], ["builtin"]]})"));
  EXPECT_EQ(outcome.exit_code, 3) << outcome.text;
  EXPECT_THAT(outcome.text,
              AllOf(HasSubstr("ended with exit code 3"), HasSubstr("| finished |"), HasSubstr("missing")));
}

TEST_F(SweepRuns, WritesAnArrayJobAndRunsNothing) {
  const Outcome outcome =
      shell(sweep(R"({"lr.peak": [1e-3, 2e-3]})", "--slurm " + quote(source_ + "/launch/slurm/train.sbatch")));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  const std::string job = content(root_ / "runs" / "sweep.sbatch");
  EXPECT_THAT(job, AllOf(HasSubstr("#SBATCH --array=0-1"), HasSubstr("  1) exec "), HasSubstr("lr.peak=0.002"),
                         HasSubstr("train.sbatch")));
  EXPECT_EQ(shell("bash -n " + quote((root_ / "runs" / "sweep.sbatch").string())).exit_code, 0);
  EXPECT_FALSE(fs::exists(root_ / "runs" / "lr.peak=0.002"));
}

TEST_F(SweepRuns, ASignalStopsTheRunAndTheSweep) {
  Process process(sweep(R"({"train.steps": [100000]})", "--set checkpoint.every=50000"));
  ASSERT_TRUE(wait_for([&] { return steps("runs/train.steps=100000") >= 3; })) << process.text();
  process.signal(SIGTERM);
  const Outcome end = process.wait();
  EXPECT_EQ(end.exit_code, 75) << end.text;
  EXPECT_THAT(end.text, AllOf(HasSubstr("stopped by SIGTERM after step"), HasSubstr("start the same command again")));
  EXPECT_FALSE(checkpoints("runs/train.steps=100000").empty());
}

// One way of counting: what a run says that it has done is what its checkpoint is called by.
TEST_F(SweepRuns, AStoppedRunNamesTheStepOfItsCheckpoint) {
  Process process(program() + tiny("run", "--set train.steps=100000"));
  ASSERT_TRUE(wait_for([&] { return steps("run") >= 3; })) << process.text();
  process.signal(SIGTERM);
  const Outcome end = process.wait();
  EXPECT_EQ(end.exit_code, 75) << end.text;
  const std::string name = checkpoints("run");  // "step_00000029 "
  const std::string step = std::to_string(std::atoi(name.c_str() + 5));
  EXPECT_THAT(end.text, HasSubstr("stopped by SIGTERM after step " + step + " with a checkpoint"));
  EXPECT_THAT(content(root_ / "run" / "status.json"), HasSubstr("\"last_step\": " + step + ","));
  EXPECT_EQ(steps("run"), static_cast<std::size_t>(std::atoi(step.c_str())));
}

}  // namespace
}  // namespace qat::cli

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

// Else the table would show what the old settings have given as what the new ones give.
TEST_F(SweepRuns, RunsOfAnotherConfigurationAreNotTakenForThese) {
  const std::string command = sweep(R"({"lr.peak": [1e-3, 2e-3]})");
  ASSERT_EQ(shell(command).exit_code, 0);
  const std::string table = content(root_ / "runs/sweep.json");
  for (const std::string& more : {std::string(), std::string("--table")}) {
    const Outcome other = shell(command + " --set train.batch_size=16 " + more);
    EXPECT_EQ(other.exit_code, 2) << other.text;
    EXPECT_THAT(other.text, AllOf(HasSubstr("run lr.peak=0.001 of the sweep: "), HasSubstr("another configuration"),
                                  HasSubstr("train.batch_size: 8 there, 16 now"), HasSubstr("runs_dir"),
                                  Not(HasSubstr("finished before"))));
  }
  const Outcome begun = shell(command + " --set model.init=random --set model.init_from=elsewhere");
  EXPECT_EQ(begun.exit_code, 2) << begun.text;
  EXPECT_THAT(begun.text, HasSubstr("model.init_from: \"\" there, \"elsewhere\" now"));
  EXPECT_EQ(content(root_ / "runs/sweep.json"), table);
  // What changes no result is no other configuration.
  const Outcome same = shell(command + " --set checkpoint.every=2 --set report.tensorboard=false");
  EXPECT_EQ(same.exit_code, 0) << same.text;
  EXPECT_EQ(count(same.text, "finished before"), 2U) << same.text;
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

TEST_F(SweepRuns, AnInterruptedSweepGoesOnWithWhatIsMissing) {
  const std::string command = sweep(R"({"lr.peak": [1e-3, 2e-3]})", "--format markdown --set train.steps=150");
  Process process(command);
  ASSERT_TRUE(wait_for([&] { return steps("runs/lr.peak=0.001") >= 3; })) << process.text();
  process.signal(SIGTERM);
  EXPECT_EQ(process.wait().exit_code, 75);
  const Outcome again = shell(command);
  EXPECT_EQ(again.exit_code, 0) << again.text;
  EXPECT_THAT(again.text, AllOf(HasSubstr("run 1 of 2: lr.peak=0.001\n"), HasSubstr("resuming after step")));
  EXPECT_EQ(count(again.text, "| finished |   150 |"), 2U) << again.text;
}

// Of two sweeps in one folder each leaves to the other what that has at work.
TEST_F(SweepRuns, TwoSweepsShareTheWork) {
  const std::string command = sweep(R"({"lr.peak": [1e-3, 2e-3]})", "--format markdown --set train.steps=2000");
  Process first(command);
  ASSERT_TRUE(wait_for([&] { return steps("runs/lr.peak=0.001") >= 1; })) << first.text();
  Process second(command);
  ASSERT_TRUE(wait_for([&] { return steps("runs/lr.peak=0.002") >= 1; })) << second.text();
  second.signal(SIGTERM);
  const Outcome stopped = second.wait();
  EXPECT_EQ(stopped.exit_code, 75) << stopped.text;
  EXPECT_THAT(stopped.text, AllOf(HasSubstr("run 1 of 2: lr.peak=0.001: left to process "), HasSubstr("since"),
                                  Not(HasSubstr("is in use by"))));
  first.signal(SIGTERM);
  EXPECT_EQ(first.wait().exit_code, 75);
}

TEST_F(SweepRuns, RunsThatAreLeftToOthersAreNoSuccess) {
  const std::string command = sweep(R"({"lr.peak": [1e-3, 2e-3]})", "--format markdown");
  const Process holder("sleep 600");
  fs::create_directories(root_ / "runs" / "lr.peak=0.002");
  const std::string host = content("/proc/sys/kernel/hostname");
  write("runs/lr.peak=0.002/run.lock", "{\"host\": \"" + host.substr(0, host.size() - 1) +
                                           "\", \"pid\": " + std::to_string(holder.pid()) +
                                           ", \"process_start\": 0, \"time\": \"today\", \"job\": \"\"}");
  const Outcome outcome = shell(command);
  EXPECT_EQ(outcome.exit_code, 75) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("run 2 of 2: lr.peak=0.002: left to process"),
                                  HasSubstr("1 run of 2 left to others; start the same command again"),
                                  HasSubstr("| finished |     4 |")));
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

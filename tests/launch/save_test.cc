// Saves beside training, in real processes: killed, stopped and out of space while a checkpoint is being written.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Save : public Cli {
 protected:
  // A checkpoint of a hundred megabytes after every step.
  static constexpr const char* kLarge =
      "--set model.preset=mini --set data.sequence_length=32 --set train.batch_size=2 --set train.micro_batch_size=1 "
      "--set train.steps=1000 --set precision.kind=constant --set checkpoint.every=1 --set checkpoint.keep=2 ";
  // A save is under way that has written some of a rank's file.
  bool is_writing(const std::string& dir) const {
    std::error_code error;
    for (const auto& entry : fs::directory_iterator(root_ / dir / "checkpoints", error))
      if (entry.path().filename().string().starts_with(".tmp-"))
        for (const auto& file : fs::directory_iterator(entry.path(), error))
          if (file.path().filename().string().starts_with("rank_") && fs::file_size(file.path(), error) > (8U << 20U))
            return true;
    return false;
  }
  // The number in the last name of checkpoints(); 0: there is none.
  int newest(const std::string& dir) const {
    const std::string names = checkpoints(dir);
    const std::size_t at = names.rfind("step_");
    return at == std::string::npos ? 0 : std::atoi(names.c_str() + at + 5);
  }
  static int last_logged(const std::string& text) {
    const std::size_t at = text.rfind("checkpoint complete: ");
    return at == std::string::npos ? 0 : std::atoi(text.c_str() + text.find("step_", at) + 5);
  }
};

TEST_F(Save, KilledWhileACheckpointIsWrittenTheRunGoesOnFromAnEarlierOne) {
  for (int round = 0; round < 3; ++round) {
    const int before = newest("run");
    Process run(on_ranks(2) + tiny("run", kLarge));
    ASSERT_TRUE(wait_for([&] { return newest("run") > before && is_writing("run"); }, 100.0)) << run.text();
    kill(locked_by("run"), SIGKILL);
    const std::string text = run.wait(60.0).text;
    EXPECT_GE(newest("run"), last_logged(text));
    EXPECT_GT(newest("run"), before);
  }
  const int from = newest("run");
  const Outcome on =
      shell(on_ranks(2) + tiny("run", std::string(kLarge) + "--set train.steps=" + std::to_string(from + 1)));
  EXPECT_EQ(on.exit_code, 0) << on.text;
  EXPECT_THAT(on.text, HasSubstr("resuming after step " + std::to_string(from)));
  EXPECT_EQ(newest("run"), from + 1);
}

TEST_F(Save, ToldToStopWhileACheckpointIsWrittenTheRunEndsWithTheNewestStep) {
  Process run(on_ranks(2) + tiny("run", kLarge));
  ASSERT_TRUE(wait_for([&] { return newest("run") > 0 && is_writing("run"); }, 100.0)) << run.text();
  run.signal(SIGTERM);
  const Outcome end = run.wait();
  EXPECT_EQ(end.exit_code, 75) << end.text;
  EXPECT_THAT(end.text, HasSubstr("with a checkpoint"));
  EXPECT_EQ(static_cast<std::size_t>(newest("run")), steps("run"));
  EXPECT_EQ(count(end.text, "step_" + std::string(8 - std::to_string(newest("run")).size(), '0') +
                                std::to_string(newest("run")) + " (after"),
            1U)
      << "saved twice:\n"
      << end.text;
  EXPECT_FALSE(is_locked("run"));
  for (const auto& entry : fs::directory_iterator(root_ / "run/checkpoints"))
    EXPECT_FALSE(entry.path().filename().string().starts_with(".")) << entry.path();
}

// A rank's file may not grow beyond what it needs: a limit that the writing thread meets.
TEST_F(Save, AWriteThatFailsEndsAllRanksWithOneMessageOrIsAWarning) {
  const std::string limited =
      "bash -c " + quote("ulimit -f 20000; " + on_ranks(2) + tiny("run", kLarge) + " --set train.steps=4");
  const Outcome end = shell(limited);
  EXPECT_EQ(end.exit_code, 4) << end.text;
  EXPECT_EQ(count(end.text, "(exit 4"), 1U) << end.text;
  EXPECT_THAT(end.text, AllOf(HasSubstr("cannot save the checkpoint of step 1 in "), HasSubstr("File too large"),
                              HasSubstr("Earlier checkpoints are untouched"), Not(HasSubstr("MPI_ABORT"))));
  EXPECT_EQ(checkpoints("run"), "");
  const Outcome on = shell("bash -c " + quote("ulimit -f 20000; " + on_ranks(2) + tiny("run", kLarge) +
                                              " --set train.steps=4 --set checkpoint.on_error=continue"));
  EXPECT_EQ(on.exit_code, 4) << on.text;
  EXPECT_THAT(on.text, AllOf(HasSubstr("training goes on (checkpoint.on_error)"),
                             HasSubstr("The run is finished and its table is in "), HasSubstr("it has no checkpoint")));
  EXPECT_EQ(steps("run"), 4U);
}

// What is in the way of every save goes while the run is evaluated for the last time, which takes some seconds.
TEST_F(Save, ALastCheckpointThatCouldNotBeWrittenIsTriedAgainAfterTheEvaluation) {
  fs::create_directories(root_ / "run");
  write("run/checkpoints", "in the way");
  Process run(program() + tiny("run",
                               "--set train.steps=2 --set precision.cycles=1 --set checkpoint.on_error=continue "
                               "--set eval.stride=1 --set eval.max_tokens=8000 --set eval.bits=[8]"));
  ASSERT_TRUE(wait_for([&] { return count(run.text(), "cannot save the checkpoint of step 2") == 1; })) << run.text();
  fs::remove(root_ / "run/checkpoints");
  const Outcome end = run.wait();
  EXPECT_EQ(end.exit_code, 0) << end.text;
  EXPECT_EQ(checkpoints("run"), "step_00000002 ") << end.text;
  EXPECT_THAT(content(root_ / "run/report.md"), HasSubstr("step_00000002"));
}

TEST_F(Save, AStopWhoseCheckpointCannotBeWrittenSaysSo) {
  fs::create_directories(root_ / "run");
  write("run/checkpoints", "in the way");
  Process run(program() +
              tiny("run", "--set train.steps=20000 --set precision.cycles=1 --set checkpoint.on_error=continue"));
  ASSERT_TRUE(wait_for([&] { return steps("run") > 3; })) << run.text();
  run.signal(SIGTERM);
  const Outcome end = run.wait();
  EXPECT_EQ(end.exit_code, 75) << end.text;
  EXPECT_THAT(end.text, AllOf(HasSubstr(" without a checkpoint; start the same command again to begin anew"),
                              Not(HasSubstr("with a checkpoint"))));
}

// The disk is full while the second checkpoint is written, or just before: the first one stays.
TEST_F(Save, AFullDiskLeavesTheEarlierCheckpoint) {
  if (geteuid() != 0 || shell("unshare -m true").exit_code != 0) GTEST_SKIP() << "needs a mount namespace";
  fs::create_directories(root_ / "run/checkpoints");
  const std::string folder = quote((root_ / "run/checkpoints").string());
  // Room for one checkpoint and a part of another, of which a file takes the rest once there is a first one.
  const std::string script = "mount -t tmpfs -o size=600m none " + folder + "; " + "(until ls -d " + folder +
                             "/step_* 2> /dev/null; do sleep 0.01; done; " + "dd if=/dev/zero of=" + folder +
                             "/filler bs=1M 2> /dev/null) & " + on_ranks(2) + tiny("run", kLarge) + "; code=$?; ls " +
                             folder + "; exit $code";
  const Outcome end = shell("unshare -m bash -c " + quote(script));
  EXPECT_EQ(end.exit_code, 4) << end.text;
  EXPECT_EQ(count(end.text, "(exit 4"), 1U) << end.text;
  EXPECT_THAT(end.text, AllOf(HasSubstr("cannot save the checkpoint of step "), HasSubstr("are free there"),
                              ::testing::AnyOf(HasSubstr("No space left on device"), HasSubstr("not enough space")),
                              HasSubstr("checkpoints/step_0000000")));
}

}  // namespace
}  // namespace qat::cli

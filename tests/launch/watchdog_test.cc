// Runs that hang, as a user meets them: the exit code, one message, the stacks in the logs, status.json, and going on.
#include <sys/stat.h>

#include <chrono>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Watchdog : public Cli {
 protected:
  // A run of many steps with a limit of three seconds and a checkpoint every second step.
  std::string slow(const std::string& more = "") const {
    return tiny(
        "run",
        "--set train.steps=100000 --set train.batch_size=12 --set checkpoint.every=2 --set watchdog.limit_seconds=3 " +
            more);
  }
  // The process of that rank of the run in root_/run; 0: there is none.
  pid_t process(int rank) const {
    const std::string number = std::to_string(rank);
    for (const auto& entry : fs::directory_iterator("/proc")) {
      const pid_t pid = std::atoi(entry.path().filename().c_str());
      if (pid == 0 || content(entry.path() / "cmdline").find((root_ / "run").string()) == std::string::npos) continue;
      const std::string environment = content(entry.path() / "environ");
      if (environment.find("OMPI_COMM_WORLD_RANK=" + number + '\0') != std::string::npos) return pid;
    }
    return 0;
  }
  bool all_gone(int ranks) const {
    return wait_for(
        [&] {
          for (int rank = 0; rank < ranks; ++rank)
            if (process(rank) != 0) return false;
          return true;
        },
        2.0);
  }
  // Runs `command`, sends `signal` to `rank` once training is under way, and waits for the end.
  void run_and_signal(const std::string& command, int rank, int signal) {
    std::thread runner([&] { outcome_ = shell(command); });
    EXPECT_TRUE(wait_for([&] { return losses("run").size() > 8; }));
    const pid_t pid = process(rank);
    EXPECT_GT(pid, 0);
    const double start = seconds_now();
    if (pid > 0) kill(pid, signal);
    runner.join();
    seconds_ = seconds_now() - start;
    signalled_ = pid;
  }
  std::string log(int rank) const { return content(root_ / "run/logs" / ("rank_00" + std::to_string(rank) + ".log")); }
  std::string status() const { return content(root_ / "run/status.json"); }

  Outcome outcome_{};
  double seconds_ = 0.0;  // from the signal to the end
  pid_t signalled_ = 0;
};

TEST_F(Watchdog, AStoppedRankEndsTheRunWithOneMessageStacksAndTheWayOn) {
  run_and_signal(on_ranks(3) + slow(), 1, SIGSTOP);
  EXPECT_EQ(outcome_.exit_code, 7) << outcome_.text;
  EXPECT_LT(seconds_, 3.0 + 15.0);
  EXPECT_TRUE(all_gone(3));
  EXPECT_EQ(count(outcome_.text, "qat_dist stopped (exit 7"), 1U) << outcome_.text;
  EXPECT_THAT(outcome_.text,
              AllOf(HasSubstr("rank 1 gives no sign of life"), HasSubstr("process " + std::to_string(signalled_)),
                    ::testing::AnyOf(HasSubstr("ranks 0, 2: "), AllOf(HasSubstr("rank 0: "), HasSubstr("rank 2: "))),
                    HasSubstr("checkpoints/step_"), HasSubstr("run_local.sh -n 3 ")));
  for (const int rank : {0, 2})
    EXPECT_THAT(log(rank), AllOf(HasSubstr("the main thread"), HasSubstr("qat::"))) << "rank " << rank;
  EXPECT_THAT(log(1), Not(HasSubstr("the main thread")));
  EXPECT_THAT(status(), AllOf(HasSubstr("\"state\": \"failed\""), HasSubstr("\"exit_code\": 7"),
                              HasSubstr("rank 1 gives no sign of life"), HasSubstr("checkpoints/step_")));
  EXPECT_FALSE(fs::exists(root_ / "run/run.lock"));

  // What the message says to type goes on.
  const std::size_t done = losses("run").size();
  const std::size_t at = outcome_.text.find("to go on: ");
  ASSERT_NE(at, std::string::npos);
  std::string again = outcome_.text.substr(at + 10, outcome_.text.find('\n', at) - at - 10);
  again += " --set train.steps=" + std::to_string(done + 4);
  const Outcome resumed = shell(again);
  EXPECT_EQ(resumed.exit_code, 0) << again << "\n" << resumed.text;
  EXPECT_EQ(losses("run").size(), done + 4);
  EXPECT_THAT(status(), HasSubstr("\"state\": \"finished\""));
}

TEST_F(Watchdog, AStoppedRank0IsNamedByAnother) {
  run_and_signal(on_ranks(2) + slow(), 0, SIGSTOP);
  EXPECT_EQ(outcome_.exit_code, 7) << outcome_.text;
  EXPECT_LT(seconds_, 3.0 + 15.0);
  EXPECT_TRUE(all_gone(2));
  EXPECT_EQ(count(outcome_.text, "qat_dist stopped (exit 7"), 1U) << outcome_.text;
  EXPECT_THAT(outcome_.text, HasSubstr("rank 0 gives no sign of life"));
  EXPECT_THAT(log(1), HasSubstr("the main thread"));
}

TEST_F(Watchdog, AKilledRankEndsTheRunAlsoWhereTheLauncherDoesNot) {
  const std::string root = geteuid() == 0 ? "--allow-run-as-root " : "";
  run_and_signal("mpirun " + root +
                     "--enable-recovery --oversubscribe --bind-to none --mca mpi_yield_when_idle 1 -n 3 " + program() +
                     slow("--set watchdog.limit_seconds=100"),
                 2, SIGKILL);
  // The exit code is mpirun's own here, and may be 0.
  EXPECT_LT(seconds_, 15.0);
  EXPECT_TRUE(all_gone(3));
  EXPECT_EQ(count(outcome_.text, "qat_dist stopped (exit 6"), 1U) << outcome_.text;
  EXPECT_THAT(outcome_.text, HasSubstr("rank 2 is gone"));
}

TEST_F(Watchdog, ARunThatItsLauncherEndsLeavesItsStateInTheFolder) {
  run_and_signal(on_ranks(2) + slow(), 1, SIGKILL);
  EXPECT_NE(outcome_.exit_code, 0);
  EXPECT_TRUE(all_gone(2));
  EXPECT_THAT(status(), AllOf(HasSubstr("\"last_step\": "), HasSubstr("checkpoints/step_"), HasSubstr("\"next\": "),
                              HasSubstr("run_local.sh -n 2 ")));
}

TEST_F(Watchdog, AProcessThatHangsAloneEndsToo) {
  fs::create_directories(root_ / "run");
  ASSERT_EQ(mkfifo((root_ / "run/metrics.jsonl").c_str(), 0600), 0);  // opening it waits for a reader for ever
  const double start = seconds_now();
  const Outcome outcome = shell(program() + slow());
  EXPECT_EQ(outcome.exit_code, 7) << outcome.text;
  EXPECT_LT(seconds_now() - start, 3.0 + 15.0);
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("rank 0 makes no progress"), HasSubstr("set-up, for "),
                                  HasSubstr("there is no checkpoint"), HasSubstr("watchdog.limit_seconds")));
  EXPECT_THAT(log(0), HasSubstr("open"));
}

TEST_F(Watchdog, OneRankThatHangsIsToldFromTheOthersThatWait) {
  fs::create_directories(root_ / "run");
  ASSERT_EQ(mkfifo((root_ / "run/metrics.jsonl").c_str(), 0600), 0);
  const Outcome outcome = shell(on_ranks(3) + slow());
  EXPECT_EQ(outcome.exit_code, 7) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("rank 0 makes no progress"), HasSubstr("ranks 1, 2: set-up, in ")));
  EXPECT_TRUE(all_gone(3));
}

TEST_F(Watchdog, RanksSuspendedTogetherGoOnLater) {
  Outcome outcome{};
  std::thread runner(
      [&] { outcome = shell(on_ranks(2) + tiny("run", "--set train.steps=60 --set watchdog.limit_seconds=2")); });
  EXPECT_TRUE(wait_for([&] { return losses("run").size() > 5; }));
  const pid_t ranks[] = {process(0), process(1)};
  for (const pid_t pid : ranks)
    if (pid > 0) kill(pid, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(4500));
  for (const pid_t pid : ranks)
    if (pid > 0) kill(pid, SIGCONT);
  runner.join();
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_EQ(losses("run").size(), 60U);
}

TEST_F(Watchdog, SaysThatItIsOff) {
  const Outcome run = shell(program() + tiny("run",
                                             "--set train.steps=2 --set precision.cycles=1 "
                                             "--set watchdog.limit_seconds=0"));
  EXPECT_EQ(run.exit_code, 0) << run.text;
  EXPECT_THAT(run.text, HasSubstr("the watchdog is off"));
  EXPECT_THAT(status(), HasSubstr("\"state\": \"finished\""));
}

}  // namespace
}  // namespace qat::cli

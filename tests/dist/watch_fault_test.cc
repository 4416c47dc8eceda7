// Ranks that stop, die, throw, spin or wait for ever, as real processes: every one of them is gone in time with the
// documented exit code, one message names the rank, and the living ones leave their stacks, also under a launcher that
// does not end the rest.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace qat::dist {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kRanks = 4;
constexpr double kLimit = 2.0;  // seconds
constexpr double kLong = 30.0;  // what is found at once must not need it

std::string quoted(const std::string& text) { return "'" + text + "'"; }

std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

bool until(const std::function<bool()>& condition, double seconds) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

enum class Launcher { kRunLocal, kMpirunWithRecovery };

struct Outcome {
  int exit_code = -1;
  std::string output;
  double seconds = 0.0;
};

class WatchFault : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("watch_fault_" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void TearDown() override {
    for (const pid_t pid : alive()) kill(pid, SIGKILL);
    fs::remove_all(folder_);
  }

  std::string command(Launcher launcher, const std::string& fault, int victim, double limit) const {
    const fs::path program = fs::read_symlink("/proc/self/exe").parent_path() / "watch_rank_test";
    if (!fs::exists(program)) throw std::runtime_error(program.string() + " is not built");
    const char* const root = std::getenv("QAT_TEST_SOURCE_DIR");
    std::string start = quoted((fs::path(root == nullptr ? "." : root) / "launch" / "run_local.sh").string());
    start += " -n " + std::to_string(kRanks);
    if (launcher == Launcher::kMpirunWithRecovery) {
      start = "mpirun --enable-recovery --oversubscribe --bind-to none --mca mpi_yield_when_idle 1";
      start += " --mca pml ob1 --mca btl self,vader --mca btl_vader_single_copy_mechanism none";
      if (geteuid() == 0) start += " --allow-run-as-root";
      // This mpirun does not return what the ranks do.
      start += " -n " + std::to_string(kRanks) + " sh -c '\"$0\" \"$@\"; echo CODE $?'";
    }
    // `timeout` turns a hang into exit code 124.
    return "exec 2>&1 < /dev/null; timeout 60 " + start + " " + quoted(program.string()) + " --fault " + fault + " " +
           std::to_string(victim) + " " + std::to_string(limit) + " " + quoted(folder_.string());
  }

  Outcome run(Launcher launcher, const std::string& fault, int victim, double limit = kLimit) const {
    const auto start = std::chrono::steady_clock::now();
    FILE* const pipe = popen(command(launcher, fault, victim, limit).c_str(), "r");
    if (pipe == nullptr) throw std::runtime_error("popen failed");
    Outcome outcome;
    std::array<char, 4096> buffer{};
    while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) outcome.output.append(buffer.data(), n);
    const int status = pclose(pipe);
    outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return outcome;
  }

  // The ranks' processes, as they noted them; 0: not yet.
  std::vector<pid_t> pids() const {
    std::vector<pid_t> all;
    for (int rank = 0; rank < kRanks; ++rank)
      all.push_back(std::atoi(content(folder_ / ("rank_" + std::to_string(rank) + ".pid")).c_str()));
    return all;
  }
  // Those that still run this test's program.
  std::vector<pid_t> alive() const {
    std::vector<pid_t> left;
    for (const pid_t pid : pids())
      if (pid > 0 && content("/proc/" + std::to_string(pid) + "/cmdline").find(folder_.string()) != std::string::npos)
        left.push_back(pid);
    return left;
  }
  std::string stacks(int rank) const { return content(folder_ / ("rank_" + std::to_string(rank) + ".log")); }

  // All that this says is common to every end: the exit code, no process left, in time.
  void expect_end(const Outcome& outcome, Launcher launcher, int exit_code, int ranks = kRanks) {
    if (launcher == Launcher::kRunLocal) {
      EXPECT_EQ(outcome.exit_code, exit_code) << outcome.output;
    } else {
      EXPECT_NE(outcome.exit_code, 124) << outcome.output;
      EXPECT_EQ(count(outcome.output, "CODE " + std::to_string(exit_code) + "\n"), static_cast<std::size_t>(ranks))
          << outcome.output;
    }
    EXPECT_LT(outcome.seconds, kLimit + 15.0);
    EXPECT_TRUE(until([&] { return alive().empty(); }, 2.0)) << "a process is left";
  }
  // The one message, and the stacks of `living`.
  void expect_message(const Outcome& outcome, int exit_code, int rank, const std::vector<int>& living) {
    EXPECT_EQ(count(outcome.output, "END exit="), 1U) << outcome.output;
    const std::string pid = std::to_string(pids()[static_cast<std::size_t>(rank)]);
    EXPECT_THAT(outcome.output,
                HasSubstr("END exit=" + std::to_string(exit_code) + " rank=" + std::to_string(rank) + " "));
    EXPECT_THAT(outcome.output, AllOf(HasSubstr(" pid=" + pid + " "), HasSubstr(" steps=20 ")));
    for (const int one : living) {
      EXPECT_EQ(count(stacks(one), "END OF STACKS"), 1U) << "rank " << one;
      EXPECT_THAT(stacks(one), HasSubstr("the main thread")) << "rank " << one;
    }
  }

  fs::path folder_;
};

class WatchFaultUnder : public WatchFault, public ::testing::WithParamInterface<Launcher> {};
INSTANTIATE_TEST_SUITE_P(, WatchFaultUnder, ::testing::Values(Launcher::kRunLocal, Launcher::kMpirunWithRecovery),
                         [](const auto& tested) {
                           return tested.param == Launcher::kRunLocal ? "RunLocal" : "MpirunWithRecovery";
                         });

TEST_P(WatchFaultUnder, AStoppedRankIsNamedAndEnded) {
  const Outcome outcome = run(GetParam(), "stop", 2);
  expect_end(outcome, GetParam(), 7);
  expect_message(outcome, 7, 2, /*living=*/{0, 1, 3});
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("no sign of life"), HasSubstr("ranks 0, 1, 3: step, in barrier")));
  // Functions have names: another library's, and the program's own, also those that no other file may call.
  EXPECT_THAT(stacks(1), AllOf(HasSubstr("MPI_Barrier"), HasSubstr("WatchedComm::barrier")));
}

TEST_P(WatchFaultUnder, AStoppedRank0IsNamedByAnother) {
  const Outcome outcome = run(GetParam(), "stop", 0);
  expect_end(outcome, GetParam(), 7);
  expect_message(outcome, 7, 0, /*living=*/{1, 2, 3});
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("no sign of life"), HasSubstr("ranks 1-3: step, in barrier")));
}

TEST_P(WatchFaultUnder, ARankThatSpinsIsNamedWithItsStack) {
  const Outcome outcome = run(GetParam(), "spin", 1);
  expect_end(outcome, GetParam(), 7);
  expect_message(outcome, 7, 1, /*living=*/{0, 1, 2, 3});
  EXPECT_THAT(outcome.output, AllOf(HasSubstr("makes no progress"), HasSubstr("in=[step]")));
  EXPECT_THAT(stacks(1), HasSubstr("spin_for_ever"));
}

TEST_P(WatchFaultUnder, RanksThatWaitForEachOtherAreAHang) {
  const Outcome outcome = run(GetParam(), "deadlock", 3);
  expect_end(outcome, GetParam(), 7);
  EXPECT_EQ(count(outcome.output, "END exit=7"), 1U) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("ranks 0-2: step, in barrier; rank 3: step, in receive"));
}

TEST_P(WatchFaultUnder, ARankThatThrowsEndsAllWithItsCodeAndItsWords) {
  for (const int victim : {0, 2}) {
    const Outcome outcome = run(GetParam(), "throw", victim, kLong);
    expect_end(outcome, GetParam(), 3);
    EXPECT_EQ(count(outcome.output, "FAILED: rank " + std::to_string(victim) + " cannot go on"), 1U) << outcome.output;
    EXPECT_THAT(outcome.output, Not(HasSubstr("END exit")));
  }
}

TEST_P(WatchFaultUnder, RanksThatAllThrowGiveOneMessage) {
  const Outcome outcome = run(GetParam(), "throw-all", -1, kLong);
  expect_end(outcome, GetParam(), 5);
  EXPECT_EQ(count(outcome.output, "FAILED: no memory"), 1U) << outcome.output;
}

TEST_P(WatchFaultUnder, RanksThatAreSuspendedTogetherGoOnLater) {
  Outcome outcome;
  std::thread runner([&] { outcome = run(GetParam(), "none", -1); });
  const auto all_there = [&] {
    for (const pid_t pid : pids())
      if (pid == 0) return false;
    return true;
  };
  ASSERT_TRUE(until(all_there, 30.0));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  for (const pid_t pid : pids()) kill(pid, SIGSTOP);
  std::this_thread::sleep_for(std::chrono::milliseconds(4500));
  for (const pid_t pid : pids()) kill(pid, SIGCONT);
  runner.join();
  expect_end(outcome, GetParam(), 0);
  EXPECT_THAT(outcome.output, Not(HasSubstr("END")));
  EXPECT_GT(outcome.seconds, 4.5);
}

TEST_F(WatchFault, AKilledRankEndsTheOthersAtOnce) {
  for (const char* fault : {"kill", "kill-in-collective", "vanish"}) {
    SetUp();
    const Outcome outcome = run(Launcher::kMpirunWithRecovery, fault, 1, kLong);
    expect_end(outcome, Launcher::kMpirunWithRecovery, 6, /*ranks=*/3);
    expect_message(outcome, 6, 1, /*living=*/{0, 2, 3});
    EXPECT_THAT(outcome.output, HasSubstr("rank 1 is gone"));
  }
}

TEST_F(WatchFault, AKilledRank0EndsTheOthersAtOnce) {
  const Outcome outcome = run(Launcher::kMpirunWithRecovery, "kill", 0, kLong);
  expect_end(outcome, Launcher::kMpirunWithRecovery, 6, /*ranks=*/3);
  expect_message(outcome, 6, 0, /*living=*/{1, 2, 3});
}

// What a launcher that ends the rest at once returns is its own: 128 and the signal.
TEST_F(WatchFault, AKilledRankIsNamedAlsoWhereTheLauncherEndsTheRest) {
  const Outcome outcome = run(Launcher::kRunLocal, "kill", 1, kLong);
  expect_end(outcome, Launcher::kRunLocal, 128 + SIGKILL);
  EXPECT_LE(count(outcome.output, "END exit="), 1U) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("rank 1"));
}

}  // namespace
}  // namespace qat::dist

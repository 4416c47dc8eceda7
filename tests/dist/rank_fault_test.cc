// What a launcher sees when ranks fail: real processes, started by launch/run_local.sh.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <string>

namespace qat::dist {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int exit_code = -1;
  std::string output;  // stdout and stderr
  double seconds = 0.0;
};

std::string quoted(const std::string& text) { return "'" + text + "'"; }

std::filesystem::path run_local() {
  const char* const root = std::getenv("QAT_TEST_SOURCE_DIR");
  return std::filesystem::path(root == nullptr ? "." : root) / "launch" / "run_local.sh";
}

Outcome shell(const std::string& command) {
  const auto start = std::chrono::steady_clock::now();
  FILE* const pipe = popen(("exec 2>&1 < /dev/null; " + command).c_str(), "r");
  if (pipe == nullptr) throw std::runtime_error("popen failed");
  Outcome outcome;
  std::array<char, 4096> buffer{};
  while (const std::size_t count = fread(buffer.data(), 1, buffer.size(), pipe))
    outcome.output.append(buffer.data(), count);
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  outcome.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return outcome;
}

// comm_rank_test lies beside this program.
Outcome run_fault(const std::string& fault) {
  const std::filesystem::path program =
      std::filesystem::read_symlink("/proc/self/exe").parent_path() / "comm_rank_test";
  if (!std::filesystem::exists(program)) throw std::runtime_error(program.string() + " is not built");
  // `timeout` turns a hang into exit code 124.
  return shell("timeout 60 " + quoted(run_local().string()) + " -n 4 " + quoted(program.string()) + " --fault " +
               fault);
}

TEST(RankFault, ARankThatThrowsEndsAllWithItsExitCodeAndItsWords) {
  const Outcome outcome = run_fault("throw");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("rank 1 cannot go on"));
  EXPECT_THAT(outcome.output, Not(HasSubstr("MPI_ABORT was invoked"))) << "mpirun's noise is dropped";
  EXPECT_LT(outcome.seconds, 20.0);
}

TEST(RankFault, ASessionThatUnwindsDoesNotWaitForItsPeers) {
  const Outcome outcome = run_fault("unwind");
  EXPECT_EQ(outcome.exit_code, 3) << outcome.output;
  EXPECT_THAT(outcome.output, HasSubstr("rank 1 unwinds"));
  EXPECT_LT(outcome.seconds, 20.0);
}

TEST(RankFault, AKilledRankIsNamedAndEndsAll) {
  const Outcome outcome = run_fault("kill");
  EXPECT_NE(outcome.exit_code, 0);
  EXPECT_NE(outcome.exit_code, 124) << "hung";
  EXPECT_THAT(outcome.output, HasSubstr("process rank 1"));
  EXPECT_LT(outcome.seconds, 20.0);
}

TEST(RankFault, AnAgreedErrorIsPrintedOnceAndIsTheExitCode) {
  const Outcome outcome = run_fault("agreed");
  EXPECT_EQ(outcome.exit_code, 3);
  EXPECT_EQ(outcome.output, "rank 1 only: no data\n");
}

TEST(RankFault, ATestThatFailsOnOneRankFailsTheProgramAndNamesTheRank) {
  for (const char* fault : {"expect", "assert", "test-throws"}) {
    const Outcome outcome = run_fault(fault);
    EXPECT_EQ(outcome.exit_code, 1) << fault << "\n" << outcome.output;
    EXPECT_THAT(outcome.output, HasSubstr("rank 1 of 4: ")) << fault;
    EXPECT_THAT(outcome.output, HasSubstr("on purpose")) << fault;
    EXPECT_LT(outcome.seconds, 20.0) << fault;
  }
}

TEST(RunLocal, PassesArgumentsAndTheExitCodeFromAPathWithSpaces) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "a folder with spaces";
  std::filesystem::create_directories(folder);
  const std::filesystem::path copy = folder / "run local.sh";
  std::filesystem::copy_file(run_local(), copy, std::filesystem::copy_options::overwrite_existing);
  const Outcome outcome =
      shell(quoted(copy.string()) + " -n 3 sh -c 'echo \"<$1>\"; echo to stderr >&2; exit 9' sh 'two words'");
  EXPECT_EQ(outcome.exit_code, 9);
  std::size_t lines = 0;
  for (std::size_t at = outcome.output.find("<two words>"); at != std::string::npos;
       at = outcome.output.find("<two words>", at + 1)) {
    ++lines;
  }
  EXPECT_GE(lines, 1U) << outcome.output;  // the first rank to exit with an error may end the others before they print
  EXPECT_THAT(outcome.output, Not(HasSubstr("Primary job")));
  std::filesystem::remove_all(folder);
}

TEST(RunLocal, StartsAsManyRanksAsAskedEvenBeyondTheCores) {
  const Outcome outcome = shell(quoted(run_local().string()) + " -n 9 sh -c 'echo rank; exit 0'");
  EXPECT_EQ(outcome.exit_code, 0) << outcome.output;
  EXPECT_EQ(std::count(outcome.output.begin(), outcome.output.end(), '\n'), 9) << outcome.output;
}

TEST(RunLocal, ASignalToTheScriptEndsTheRanks) {
  const std::string command = quoted(run_local().string()) +
                              " -n 2 sh -c 'exec sleep 100' & pid=$!; sleep 2; kill -TERM $pid; "
                              "timeout 20 tail --pid=$pid -f /dev/null; echo ended $?";
  const Outcome outcome = shell(command);
  EXPECT_THAT(outcome.output, HasSubstr("ended 0")) << outcome.output;
  EXPECT_LT(outcome.seconds, 20.0);
}

TEST(RunLocal, RefusesAWrongUseWithExitCode2) {
  for (const char* arguments : {"", "-n 4", "-n 0 true", "-n x true", "4 true"}) {
    const Outcome outcome = shell(quoted(run_local().string()) + " " + arguments);
    EXPECT_EQ(outcome.exit_code, 2) << arguments;
    EXPECT_THAT(outcome.output, HasSubstr("usage: run_local.sh -n RANKS PROGRAM"));
  }
}

}  // namespace
}  // namespace qat::dist

// The watchdog beside real MPI, on ranks that behave. `watch_rank_test --fault NAME VICTIM LIMIT FOLDER` instead runs
// steps in which rank VICTIM misbehaves, as watch_fault_test.cc asks; the ranks keep their process numbers, and their
// stacks, in FOLDER.
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>
#include <thread>

#include "dist/watch/watchdog.h"
#include "dist/watch/watched_comm.h"
#include "tests/dist/communicator_cases.h"
#include "tests/dist/rank_test_main.h"

namespace qat::dist {

// Not in the anonymous namespace, so that it has a name in stacks.
[[gnu::noinline]] void spin_for_ever() {
  for (volatile int i = 0;; i = i + 1) {
  }
}

namespace {

void rest(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

struct FaultArguments {
  std::string fault;
  int victim = 0;
  double limit = 0.0;
  std::string folder;

  std::string file(int rank, const char* ending) const { return folder + "/rank_" + std::to_string(rank) + ending; }
};

// One line with everything, as launch/ would put it into words.
void print_end(const EndReport& report) {
  if (report.said) return;
  const std::string line =
      "END exit=" + std::to_string(report.verdict.exit_code) + " rank=" + std::to_string(report.verdict.rank) +
      " host=" + report.host + " pid=" + std::to_string(report.pid) + " in=[" + report.activity +
      "] seconds=" + std::to_string(static_cast<int>(report.verdict.seconds)) +
      " steps=" + std::to_string(report.steps) + " what=[" + report.what + "] others=[" + report.others + "]\n";
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

WatchdogOptions fault_options(const FaultArguments& arguments, const MpiSession& session) {
  WatchdogOptions options{.limit_seconds = arguments.limit, .host = session.host_name()};
  options.on_end = print_end;
  options.on_stacks = [file = arguments.file(session.rank(), ".log")](const std::string& text) {
    std::ofstream(file, std::ios::app) << text << "END OF STACKS\n";
  };
  return options;
}

void misbehave(const FaultArguments& arguments, Communicator& comm) {
  const std::string& fault = arguments.fault;
  if (fault == "stop") raise(SIGSTOP);
  if (fault == "kill") raise(SIGKILL);
  if (fault == "vanish") _exit(0);  // a library that ends the process behind the program's back
  if (fault == "throw") throw Error(ErrorKind::kData, "rank " + std::to_string(comm.rank()) + " cannot go on");
  if (fault == "spin") spin_for_ever();
  if (fault == "deadlock") {  // the others come to a barrier instead
    std::vector<float> never(1);
    comm.receive(view(never), (comm.rank() + 1) % comm.size(), 5);
  }
}

// Most faults are in the middle of a rank's own work; two happen while all wait in a collective.
void run_steps(const FaultArguments& arguments, Communicator& comm, ProgressBoard& board) {
  constexpr int kSteps = 60;
  for (int step = 0; step < kSteps; ++step) {
    board.enter(Section::kStep);
    rest(0.02);
    if (step == 20) {
      if (comm.rank() == arguments.victim) misbehave(arguments, comm);
      if (arguments.fault == "throw-all") throw Error(ErrorKind::kOutOfMemory, "no memory on any rank");
      std::thread killer;
      if (arguments.fault == "kill-in-collective" && comm.rank() == arguments.victim)
        std::thread([] {
          rest(0.3);
          raise(SIGKILL);
        }).detach();
      if (arguments.fault == "kill-in-collective" && comm.rank() == (arguments.victim + 1) % comm.size()) rest(1.5);
    }
    comm.barrier();
    board.set_steps(step + 1);
  }
}

int run_fault(const FaultArguments& arguments, int* argc, char*** argv) {
  ProgressBoard board;
  std::unique_ptr<Watchdog> watchdog;  // outlives MPI: a rank may hang in MPI_Finalize
  MpiSession session(argc, argv);
  std::ofstream(arguments.file(session.rank(), ".pid")) << getpid() << std::endl;
  try {
    std::unique_ptr<Communicator> comm = make_mpi_world(session);
    watchdog = std::make_unique<Watchdog>(*comm, board, fault_options(arguments, session));
    comm = make_watched_comm(std::move(comm), board);
    run_steps(arguments, *comm, board);
  } catch (const Error& error) {
    const bool speaks = !watchdog || watchdog->announce_failure(error.exit_code(), error.what());
    if (speaks) std::fprintf(stderr, "FAILED: %s\n", error.what());
    if (watchdog) watchdog->end_with_failure();
    session.abort(error.exit_code());
  }
  return 0;
}

void contract_under_watch(const MpiSession& session) {
  ProgressBoard board;
  const std::unique_ptr<Communicator> comm = make_watched_comm(make_mpi_world(session), board);
  Watchdog watchdog(*comm, board, {.limit_seconds = 60.0, .host = session.host_name()});
  for (const testing::CommunicatorCase& contract : testing::communicator_cases()) contract.body(*comm);
  EXPECT_EQ(board.read().waits_for, WaitFor::kNothing);
  comm->barrier();
  EXPECT_TRUE(watchdog.take_warnings().empty());
}

void many_watchdogs_in_a_row(Communicator& world) {
  for (int i = 0; i < 5; ++i) {
    ProgressBoard board;
    Watchdog watchdog(world, board, {.limit_seconds = 60.0});
    world.barrier();
  }
}

class RegisteredTest : public ::testing::Test {
 public:
  explicit RegisteredTest(std::function<void()> body) : body_(std::move(body)) {}
  void TestBody() override { body_(); }

 private:
  std::function<void()> body_;
};

void register_test(const char* name, const std::function<void()>& body) {
  ::testing::RegisterTest("Watchdog", name, nullptr, nullptr, __FILE__, __LINE__,
                          [body]() -> ::testing::Test* { return new RegisteredTest(body); });
}

int run(int argc, char** argv) {
  if (argc == 6 && std::strcmp(argv[1], "--fault") == 0)
    return run_fault(
        {.fault = argv[2], .victim = std::atoi(argv[3]), .limit = std::strtod(argv[4], nullptr), .folder = argv[5]},
        &argc, &argv);
  MpiSession session(&argc, &argv);
  return testing::run_rank_tests(session, &argc, argv, [&](Communicator& world) {
    register_test("LeavesTheContractOfTheCommunicatorAsItIs", [&] { contract_under_watch(session); });
    register_test("ComesAndGoes", [&] { many_watchdogs_in_a_row(world); });
  });
}

}  // namespace
}  // namespace qat::dist

int main(int argc, char** argv) { return qat::dist::run(argc, argv); }

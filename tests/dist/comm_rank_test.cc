// The communicator contract over real MPI, in the default configuration and with pieces so small that
// the larger buffers take several. `comm_rank_test --fault NAME` instead misbehaves as rank_fault_test.cc asks.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>

#include "tests/dist/communicator_cases.h"
#include "tests/dist/rank_test_main.h"

namespace qat::dist {
namespace {

class ContractTest : public ::testing::Test {
 public:
  explicit ContractTest(std::function<void()> body) : body_(std::move(body)) {}
  void TestBody() override { body_(); }

 private:
  std::function<void()> body_;
};

void register_test(const std::string& suite, const std::string& name, const std::function<void()>& body) {
  ::testing::RegisterTest(suite.c_str(), name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                          [body]() -> ::testing::Test* { return new ContractTest(body); });
}

void register_contract(const std::string& suite, Communicator& world) {
  for (const testing::CommunicatorCase& contract : testing::communicator_cases()) {
    register_test(suite, contract.name, [&world, contract] { contract.body(world); });
  }
}

void session_knows_its_place(const MpiSession& session, Communicator& world) {
  EXPECT_EQ(session.rank(), world.rank());
  EXPECT_EQ(session.size(), world.size());
  EXPECT_EQ(world.backend(), "mpi");
  EXPECT_FALSE(session.host_name().empty());
  // Every rank of this test is on this machine.
  EXPECT_EQ(session.local_size(), world.size());
  std::vector<std::int32_t> place{session.local_rank()};
  std::vector<std::int32_t> places(static_cast<std::size_t>(world.size()));
  world.all_gather(view(place), view(places));
  std::sort(places.begin(), places.end());
  for (int i = 0; i < world.size(); ++i) EXPECT_EQ(places[static_cast<std::size_t>(i)], i);
}

// What rank 1 says to a message of `sent` values where it has room for `expected`.
Error error_of_a_message(Communicator& world, std::size_t sent, std::size_t expected) {
  std::vector<std::int32_t> out(sent), room(expected);
  if (world.rank() == 0) world.send(view(out), 1, 3);
  if (world.rank() == 1) {
    try {
      world.receive(view(room), 0, 3);
      ADD_FAILURE() << sent << " elements fitted into " << expected;
    } catch (const Error& error) {
      return error;
    }
  }
  return {ErrorKind::kInternal, ""};
}

void mpi_errors_carry_the_call_and_the_rank(Communicator& world) {
  if (world.size() == 1) return;
  const Error longer = error_of_a_message(world, 8, 4), shorter = error_of_a_message(world, 4, 8);
  if (world.rank() == 1) {
    EXPECT_EQ(longer.kind(), ErrorKind::kCommunication);
    const std::string text = longer.what();
    EXPECT_NE(text.find("rank 1 on "), std::string::npos) << text;
    EXPECT_NE(text.find("MPI_Wait"), std::string::npos) << text;
    EXPECT_NE(std::string(shorter.what()).find("rank 0 sent 16 bytes, rank 1 expects 32"), std::string::npos)
        << shorter.what();
  }
  world.barrier();
}

// Faults, each on rank 1 while the others wait in a collective.
int misbehave(MpiSession& session, const std::string& fault) {
  try {
    const std::unique_ptr<Communicator> world = make_mpi_world(session);
    if (fault == "agreed") agree(*world, {.ok = session.rank() != 1, .exit_code = 3, .message = "no data"}, "data");
    if (session.rank() == 1) {
      if (fault == "throw") throw Error(ErrorKind::kData, "rank 1 cannot go on");
      if (fault == "kill") std::raise(SIGKILL);
    }
    world->barrier();
  } catch (const AgreedError& error) {
    if (session.rank() == 0) std::fprintf(stderr, "%s\n", error.what());
    return error.exit_code();
  } catch (const Error& error) {
    std::fprintf(stderr, "%s\n", error.what());
    session.abort(error.exit_code());
  }
  return 0;
}

// The session itself unwinds: its destructor must not wait for the others.
void unwind(int* argc, char*** argv) {
  const MpiSession session(argc, argv);
  const std::unique_ptr<Communicator> world = make_mpi_world(session);
  if (session.rank() == 1) throw Error(ErrorKind::kData, "rank 1 unwinds");
  world->barrier();
}

// A test that fails on rank 1 alone: the whole program must fail, and nobody may hang.
void fail_a_test(const MpiSession& session, Communicator& world, const std::string& fault) {
  if (session.rank() == 1) {
    EXPECT_TRUE(fault != "expect") << "on purpose";
    ASSERT_TRUE(fault != "assert") << "on purpose";
    if (fault == "test-throws") throw std::runtime_error("on purpose");
  }
  world.barrier();
}

int run(int argc, char** argv) {
  const std::string fault = argc == 3 && std::strcmp(argv[1], "--fault") == 0 ? argv[2] : "";
  if (fault == "unwind") {
    try {
      unwind(&argc, &argv);
      return 0;
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      return error.exit_code();
    }
  }
  MpiSession session(&argc, &argv);
  if (fault == "expect" || fault == "assert" || fault == "test-throws") {
    return testing::run_rank_tests(session, &argc, argv, [&](Communicator& world) {
      register_test("Fault", "FailsOnRank1", [&] { fail_a_test(session, world, fault); });
    });
  }
  if (!fault.empty()) return misbehave(session, fault);
  const std::unique_ptr<Communicator> pieces = make_mpi_world(session, {.small_bytes = 16, .segment_bytes = 6000});
  return testing::run_rank_tests(session, &argc, argv, [&](Communicator& world) {
    register_contract("Mpi", world);
    register_contract("MpiInPieces", *pieces);
    register_test("MpiSession", "KnowsItsPlace", [&] { session_knows_its_place(session, world); });
    register_test("Mpi", "ErrorsCarryTheCallAndTheRank", [&] { mpi_errors_carry_the_call_and_the_rank(world); });
  });
}

}  // namespace
}  // namespace qat::dist

int main(int argc, char** argv) { return qat::dist::run(argc, argv); }

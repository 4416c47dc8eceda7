// The main of a test program that runs as several MPI ranks. All ranks run the same tests; rank 0 prints the usual
// lines, every rank prints its own failures with its number, and a failure on any rank fails all. A rank that cannot go
// on (an exception, a failed ASSERT) ends the job, for the others would wait for it for ever.
#pragma once

#include <gtest/gtest.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "dist/comm/mpi_comm.h"
#include "dist/comm/mpi_session.h"

namespace qat::dist::testing {

class RankFailures : public ::testing::EmptyTestEventListener {
 public:
  explicit RankFailures(const MpiSession& session) : session_(session) {}

 private:
  void OnTestStart(const ::testing::TestInfo& test) override { test_ = test.name(); }
  void OnTestEnd(const ::testing::TestInfo&) override { test_ = "set-up"; }
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    std::fprintf(stderr, "rank %d of %d: %s failed at %s:%d\n%s\n", session_.rank(), session_.size(), test_.c_str(),
                 result.file_name() == nullptr ? "?" : result.file_name(), result.line_number(), result.message());
    if (result.fatally_failed()) session_.abort(1);
  }
  const MpiSession& session_;
  std::string test_ = "set-up";  // GoogleTest holds its lock while it reports, so it cannot be asked then
};

// register_tests(world) may add tests with testing::RegisterTest.
template <typename RegisterTests>
int run_rank_tests(MpiSession& session, int* argc, char** argv, const RegisterTests& register_tests) {
  ::testing::InitGoogleTest(argc, argv);
  GTEST_FLAG_SET(catch_exceptions, false);  // caught below, where the other ranks can be ended too
  ::testing::TestEventListeners& listeners = ::testing::UnitTest::GetInstance()->listeners();
  if (session.rank() != 0) delete listeners.Release(listeners.default_result_printer());
  listeners.Append(new RankFailures(session));
  try {
    const std::unique_ptr<Communicator> world = make_mpi_world(session);
    register_tests(*world);
    std::vector<std::int32_t> failed{RUN_ALL_TESTS()};
    if (::testing::UnitTest::GetInstance()->test_to_run_count() == 0) failed[0] = 1;  // would be a pass for nothing
    world->all_reduce(view(failed), ReduceOp::kMax);
    return failed[0];
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d of %d: %s\n", session.rank(), session.size(), error.what());
    session.abort(1);
  }
}

}  // namespace qat::dist::testing

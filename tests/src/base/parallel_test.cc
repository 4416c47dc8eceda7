#include "src/base/parallel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace qat {
namespace {

TEST(RunParallel, ThrowsWhatTheLowestFailingOneThrewAsItWas) {
  const auto body = [](std::int64_t i) {
    if (i == 5) throw Error(ErrorKind::kData, "five");
    if (i >= 3) throw std::bad_alloc();
  };
  EXPECT_THROW(run_parallel(8, 4, body), std::bad_alloc);
  EXPECT_THROW(run_parallel(8, 1, body), std::bad_alloc);
}

// In a process of its own: a limit of address space that holds a few stacks and not sixty.
void start_more_threads_than_fit() {
  std::FILE* status = std::fopen("/proc/self/statm", "r");
  long pages = 0;
  if (status == nullptr || std::fscanf(status, "%ld", &pages) != 1) std::_Exit(1);
  const rlim_t now = static_cast<rlim_t>(pages) * 4096;
  const rlimit limit{now + (rlim_t{100} << 20), now + (rlim_t{100} << 20)};
  if (setrlimit(RLIMIT_AS, &limit) != 0) std::_Exit(1);
  try {
    run_parallel(60, 60, [](std::int64_t) { std::this_thread::sleep_for(std::chrono::milliseconds(50)); });
  } catch (const Error& error) {
    std::fputs(error.what(), stderr);
    std::_Exit(error.exit_code());
  }
  std::_Exit(0);
}

TEST(RunParallelDeathTest, AThreadThatCannotBeStartedIsAnErrorAndNotTheEndOfTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(start_more_threads_than_fit(), ::testing::ExitedWithCode(5), "thread .* of 60 cannot be started");
}

}  // namespace
}  // namespace qat

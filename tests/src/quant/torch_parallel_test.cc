#include "src/quant/torch_parallel.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <stdexcept>
#include <thread>
#include <vector>

namespace qat {
namespace {

using ::testing::Each;

// Of the calling thread: what a product of matrices would be cut among.
int openmp_threads() {
  using Function = int (*)();
  static const auto ask = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, "omp_get_max_threads"));
  return ask == nullptr ? -1 : ask();
}

TEST(RunTorchParallel, EveryThreadWorksAlone) {
  at::set_num_threads(1);
  ASSERT_EQ(openmp_threads(), 1) << "LibTorch without OpenMP?";
  int unprepared = 1;
  std::thread([&] { unprepared = openmp_threads(); }).join();
  if (unprepared == 1) GTEST_SKIP() << "a machine of one core, or OMP_NUM_THREADS=1";
  std::vector<int> threads(8);
  run_torch_parallel(8, 4, [&](std::int64_t i) { threads[static_cast<std::size_t>(i)] = openmp_threads(); });
  EXPECT_THAT(threads, Each(1));
}

// What a library sets up in its first call, it may set up without a lock.
TEST(RunTorchParallel, TheFirstBodyOfAProcessRunsAlone) {
  std::atomic<int> others = 0;
  std::array<int, 2> begun_meanwhile{};
  std::atomic<int> calls = 0;
  for (int& begun : begun_meanwhile)
    run_torch_parallel(4, 4, [&](std::int64_t i) {
      ++calls;
      if (i > 0) {
        ++others;
        return;
      }
      const int before = others;
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      begun = others - before;
    });
  EXPECT_EQ(begun_meanwhile[0], 0);
  EXPECT_GT(begun_meanwhile[1], 0) << "later ones run side by side";
  EXPECT_EQ(calls, 8) << "every body once";
}

TEST(RunTorchParallel, TheFirstOfAProcessMayFail) {
  for (const bool fail : {true, false}) {
    std::atomic<int> calls = 0;
    const auto run = [&] {
      run_torch_parallel(3, 2, [&](std::int64_t i) {
        if (fail && i == 0) throw std::runtime_error("first");
        ++calls;
      });
    };
    if (fail) {
      EXPECT_THROW(run(), std::runtime_error);
    } else {
      run();
      EXPECT_EQ(calls, 3);
    }
  }
}

}  // namespace
}  // namespace qat

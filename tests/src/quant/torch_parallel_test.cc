#include "src/quant/torch_parallel.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

}  // namespace
}  // namespace qat

// A run that saves for ever in another process: what stands after it is killed, and what a reader beside it sees.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <random>
#include <thread>

#include "src/checkpoint/retention.h"
#include "tests/src/checkpoint/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using testing::expect_small;
using ::testing::IsEmpty;
using testing::leftovers;
using testing::save_small;

class LivingRun : public testing::ScratchFolder {};

// The save loop of a run: every step saved twice (a replacement), the newest two kept. Logs a step once it is complete.
[[noreturn]] void save_forever(const fs::path& root, std::int64_t first_step, int log) {
  for (std::int64_t step = first_step;; ++step) {
    save_small(root, step, step);
    save_small(root, step, step, /*rows=*/20'000);
    (void)!::write(log, &step, sizeof step);
    apply_retention(root, /*keep=*/2, {step});
  }
}

TEST_F(LivingRun, AfterAKillAtARandomInstantTheNewestLoggedCheckpointIsThere) {
  std::mt19937 random(20240520);
  std::int64_t newest_logged = 0;
  std::chrono::nanoseconds step_time = std::chrono::milliseconds(20);
  for (int round = 0; round < 30; ++round) {
    int log[2];
    ASSERT_EQ(::pipe(log), 0);
    const pid_t child = ::fork();
    if (child == 0) {
      ::close(log[0]);
      save_forever(root_, newest_logged + 1, log[1]);
    }
    ::close(log[1]);
    // Some steps further, then a part of the next one; a slow machine only makes the test slow.
    std::int64_t step = 0;
    const auto begin = std::chrono::steady_clock::now();
    const int steps = static_cast<int>(random() % 3);
    for (int i = 0; i < steps && ::read(log[0], &step, sizeof step) == sizeof step; ++i) newest_logged = step;
    if (steps > 0) step_time = (std::chrono::steady_clock::now() - begin) / steps;
    std::this_thread::sleep_for(step_time * (random() % 1000) / 1000);
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status)) << "the save loop ended by itself, with " << WEXITSTATUS(status);
    while (::read(log[0], &step, sizeof step) == sizeof step) newest_logged = step;
    ::close(log[0]);

    sweep_leftovers(root_);
    EXPECT_THAT(leftovers(root_), IsEmpty());
    const auto reader = open_newest_valid(root_, [](const std::string& text) { ADD_FAILURE() << text; });
    if (newest_logged == 0 && !reader) continue;
    ASSERT_TRUE(reader.has_value());
    EXPECT_GE(reader->info().step, newest_logged);
    expect_small(*reader, reader->info().step);
    newest_logged = reader->info().step;
  }
  EXPECT_GT(newest_logged, 5);  // the loop came forward at all
}

// A run that saves every step and keeps one: the folder that a reader has found is gone a moment later.
TEST_F(LivingRun, AReaderOfALivingRunFindsANewestOneEveryTimeAndKeepsIt) {
  save_small(root_, 1, 1);
  const pid_t child = ::fork();
  if (child == 0) {
    for (std::int64_t step = 2;; ++step) {
      save_small(root_, step, step, /*rows=*/2'000);
      apply_retention(root_, /*keep=*/1, {step});
    }
  }
  std::int64_t newest = 0, gone = 0;
  for (int round = 0; round < 100; ++round) {
    const CheckpointReader reader = open_checkpoint(root_, [](const std::string& text) { ADD_FAILURE() << text; });
    EXPECT_GE(reader.info().step, newest);
    newest = reader.info().step;
    if (round % 10 == 0) {  // until the folder is gone
      while (fs::exists(reader.info().folder)) std::this_thread::yield();
      ++gone;
    }
    expect_small(reader, newest);
  }
  ASSERT_EQ(::kill(child, SIGKILL), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status)) << "the save loop ended by itself, with " << WEXITSTATUS(status);
  EXPECT_EQ(gone, 10);
  EXPECT_GT(newest, 10);
}

}  // namespace
}  // namespace qat

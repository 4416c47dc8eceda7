// Checkpoints that the file system does not let go, as of an immutable file or a mount point: no reason to end a run.
#include <dlfcn.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "tests/support/trainer_fixture.h"

namespace {

// The calls that fail, for root too: renaming a folder that begins with this, and removing a file of this name.
std::atomic<const char*> g_kept_folder = nullptr, g_kept_file = nullptr;

bool is_last_part(std::string_view path, const char* begin) {
  return begin != nullptr && path.substr(path.rfind('/') + 1).starts_with(begin);
}

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

}  // namespace

// In the C library's place, for this test program.
extern "C" int rename(const char* from, const char* to) noexcept {
  static auto* const real = next<int(const char*, const char*)>("rename");
  if (!is_last_part(from, g_kept_folder)) return real(from, to);
  errno = EPERM;
  return -1;
}
extern "C" int unlinkat(int folder, const char* name, int flags) noexcept {
  static auto* const real = next<int(int, const char*, int)>("unlinkat");
  if (!is_last_part(name, g_kept_file)) return real(folder, name, flags);
  errno = EPERM;
  return -1;
}

namespace qat {
namespace {

namespace fs = std::filesystem;

class UnremovableCheckpoint : public test::TrainerTest {
 protected:
  void TearDown() override {
    g_kept_folder = g_kept_file = nullptr;
    TrainerTest::TearDown();
  }
  TrainerOptions saving(std::int64_t steps) const {
    TrainerOptions o = options("run", steps);
    o.checkpoint.every = 2, o.checkpoint.keep = 1;
    return o;
  }
  std::vector<std::int64_t> steps() const {
    std::vector<std::int64_t> all;
    for (const CheckpointInfo& one : list_checkpoints(root_ / "run/checkpoints")) all.push_back(one.step);
    return all;
  }
  bool stays(std::int64_t step) const {
    const std::vector<std::int64_t> all = steps();
    return std::find(all.begin(), all.end(), step) != all.end();
  }
  std::int64_t leftovers() const {
    const fs::directory_iterator folders(root_ / "run/checkpoints");
    return std::count_if(begin(folders), end(folders),
                         [](const auto& one) { return one.path().filename().string().starts_with(".trash-"); });
  }
};

TEST_F(UnremovableCheckpoint, IsAWarningAndGoesAsSoonAsItCan) {
  g_kept_folder = "step_00000002";
  const End end = train(saving(8), 2);
  EXPECT_TRUE(end.result.finished);
  EXPECT_TRUE(stays(2));
  EXPECT_FALSE(stays(4));
  EXPECT_THAT(
      read("run", "logs/rank_000.log"),
      ::testing::AllOf(::testing::HasSubstr("warning: cannot remove"), ::testing::HasSubstr("step_00000002"),
                       ::testing::HasSubstr("Operation not permitted"), ::testing::Not(::testing::HasSubstr("error"))));
  g_kept_folder = nullptr;
  train(saving(10), 2);
  EXPECT_FALSE(stays(2));
}

// Half-way: out of sight, and then its manifest stays.
TEST_F(UnremovableCheckpoint, WhoseFilesStayDoesNotKeepTheNextStartFromGoingOn) {
  g_kept_file = "manifest.json";
  EXPECT_TRUE(train(saving(6), 2).result.finished);
  EXPECT_FALSE(stays(2));
  EXPECT_EQ(leftovers(), 1);
  EXPECT_THAT(read("run", "logs/rank_000.log"), ::testing::HasSubstr("warning: cannot remove"));
  const End resumed = train(saving(8), 2);
  EXPECT_TRUE(resumed.result.finished);
  EXPECT_EQ(resumed.state.step, 8);
  EXPECT_THAT(read("run", "logs/rank_000.log"), ::testing::HasSubstr("warning: cannot remove"));
  g_kept_file = nullptr;
  train(saving(10), 2);
  EXPECT_EQ(leftovers(), 0);
}

}  // namespace
}  // namespace qat

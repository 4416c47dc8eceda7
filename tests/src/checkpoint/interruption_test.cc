// A save that is killed or that fails, at every system call it makes: the program's own pwrite, fsync, rename, ...
// stand before the C library's here, for HDF5 and libstdc++ too, and end the process or report an error at a chosen
// call.
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

#include "src/checkpoint/manifest.h"
#include "tests/src/checkpoint/checkpoint_fixture.h"

namespace {

enum class Fault { kNone, kDie, kFail };

struct FaultPlan {
  Fault fault = Fault::kNone;
  int at = -1;         // the call, counted from 0, that dies or fails
  bool stays = false;  // kFail: the following ones fail too, as on a full disk
  int error = 0;
  bool only_writes = false;
  bool no_exchange = false;  // renameat2 as on a file system without it
  int calls = 0;
};
FaultPlan plan;

// True: the caller must report plan.error.
bool strikes(bool is_write) {
  if (plan.only_writes && !is_write) return false;
  const int call = std::atomic_ref(plan.calls).fetch_add(1);  // threads that save at the same time are all counted
  if (plan.fault == Fault::kNone || call < plan.at || (call > plan.at && !plan.stays)) return false;
  if (plan.fault == Fault::kDie) ::_exit(9);
  errno = plan.error;
  return true;
}

// A full disk does not concern files in memory.
bool is_in_memory(int fd) {
  char target[64] = {};
  const std::string link = "/proc/self/fd/" + std::to_string(fd);
  return ::readlink(link.c_str(), target, sizeof target - 1) > 0 && std::strncmp(target, "/memfd:", 7) == 0;
}

}  // namespace

extern "C" {

ssize_t pwrite(int fd, const void* data, size_t bytes, off_t offset) {
  if (!is_in_memory(fd)) {
    const bool dies_now = plan.fault == Fault::kDie && plan.calls == plan.at;
    if (dies_now) (void)syscall(SYS_pwrite64, fd, data, bytes / 2, offset);  // torn in the middle
    if (strikes(/*is_write=*/true)) return -1;
  }
  return syscall(SYS_pwrite64, fd, data, bytes, offset);
}

ssize_t write(int fd, const void* data, size_t bytes) {
  struct stat info {};
  if (::fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && !is_in_memory(fd)) {
    const bool dies_now = plan.fault == Fault::kDie && plan.calls == plan.at;
    if (dies_now) (void)syscall(SYS_write, fd, data, bytes / 2);
    if (strikes(/*is_write=*/true)) return -1;
  }
  return syscall(SYS_write, fd, data, bytes);
}

int ftruncate(int fd, off_t length) noexcept {
  if (!is_in_memory(fd) && strikes(/*is_write=*/true)) return -1;
  return static_cast<int>(syscall(SYS_ftruncate, fd, length));
}

int fsync(int fd) {
  if (strikes(/*is_write=*/false)) return -1;
  return static_cast<int>(syscall(SYS_fsync, fd));
}

int rename(const char* from, const char* to) noexcept {
  if (strikes(/*is_write=*/false)) return -1;
  return static_cast<int>(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

int renameat2(int from_folder, const char* from, int to_folder, const char* to, unsigned flags) noexcept {
  if (strikes(/*is_write=*/false)) return -1;
  if (plan.no_exchange) {
    errno = EINVAL;
    return -1;
  }
  return static_cast<int>(syscall(SYS_renameat2, from_folder, from, to_folder, to, flags));
}

int unlinkat(int folder, const char* name, int flags) noexcept {
  if (plan.fault == Fault::kDie) (void)strikes(/*is_write=*/false);  // failing removals are ignored by design
  return static_cast<int>(syscall(SYS_unlinkat, folder, name, flags));
}

}  // extern "C"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::AnyOf;
using testing::checkpoint_error;
using testing::content;
using ::testing::ElementsAre;
using testing::expect_small;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::leftovers;
using testing::save_small;
using testing::steps_of;
using testing::write_bytes;

// Runs `body` in a child process; its exit status. What `body` prints goes to the test's output.
int in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int code = 1;
    try {
      code = body();
    } catch (const std::exception& error) {
      std::fprintf(stderr, "child: %s\n", error.what());
    }
    std::fflush(stderr);
    ::_exit(code);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

std::size_t open_descriptors() {
  const fs::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

class Interruption : public testing::ScratchFolder {
 protected:
  void SetUp() override {
    ScratchFolder::SetUp();
    plan = {};
  }
  void TearDown() override {
    plan = {};
    ScratchFolder::TearDown();
  }
  // How many calls one save makes when nothing is wrong.
  int count_calls(const FaultPlan& base, std::int64_t step, std::int64_t rows = 16) {
    plan = base;
    save_small(root_, step, 1, rows);
    const int calls = plan.calls;
    plan = {};
    return calls;
  }
  void start_over(const std::vector<std::int64_t>& steps) {
    fs::remove_all(root_);
    for (const std::int64_t step : steps) save_small(root_, step, step);
  }
};

TEST_F(Interruption, KilledAtAnySystemCallASaveLeavesTheOldOrTheNewCheckpoint) {
  start_over({1});
  const int calls = count_calls({}, 2);
  ASSERT_GT(calls, 8);
  int complete = 0;
  for (int at = 0; at < calls; ++at) {
    start_over({1});
    ASSERT_EQ(in_child([&] {
                plan = {.fault = Fault::kDie, .at = at};
                save_small(root_, 2, 2);
                return 0;
              }),
              9);
    const std::vector<std::int64_t> before = steps_of(list_checkpoints(root_));
    EXPECT_THAT(before, AnyOf(ElementsAre(1), ElementsAre(1, 2))) << at;
    EXPECT_THAT(scan_checkpoints(root_).broken, IsEmpty()) << at;
    sweep_leftovers(root_);
    EXPECT_THAT(leftovers(root_), IsEmpty());
    EXPECT_EQ(steps_of(list_checkpoints(root_)), before);
    for (const std::int64_t step : before) expect_small(CheckpointReader::open(root_ / step_folder_name(step)), step);
    complete += before.size() == 2 ? 1 : 0;
  }
  EXPECT_GT(complete, 0);      // killed after the rename
  EXPECT_LT(complete, calls);  // and before it
}

// Replacing a step, with and without a file system that can exchange two names.
TEST_F(Interruption, KilledWhileReplacingAStepEitherVersionIsThereAfterTheSweep) {
  for (const bool no_exchange : {false, true}) {
    start_over({1});
    const int calls = count_calls({.no_exchange = no_exchange}, 1);
    int replaced = 0;
    int put_back = 0;
    for (int at = 0; at < calls; ++at) {
      start_over({1});
      ASSERT_EQ(in_child([&] {
                  plan = {.fault = Fault::kDie, .at = at, .no_exchange = no_exchange};
                  save_small(root_, 1, 100);
                  return 0;
                }),
                9);
      put_back += list_checkpoints(root_).empty() ? 1 : 0;
      sweep_leftovers(root_);
      EXPECT_THAT(leftovers(root_), IsEmpty());
      ASSERT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(1)) << at;
      const CheckpointReader reader = CheckpointReader::open(root_ / "step_00000001");
      const auto value = reader.attribute<std::int64_t>("/state", "value");
      EXPECT_THAT(value, AnyOf(1, 100));
      expect_small(reader, value);
      replaced += value == 100 ? 1 : 0;
    }
    EXPECT_GT(replaced, 0);
    EXPECT_LT(replaced, calls);
    EXPECT_EQ(put_back, no_exchange ? 1 : 0);  // the one instant between the two renames
  }
}

TEST_F(Interruption, AFailingSystemCallIsAnErrorAndTheOldCheckpointStays) {
  start_over({1});
  const int calls = count_calls({}, 2);
  const std::size_t descriptors = open_descriptors();
  const std::int64_t objects = h5_open_objects();
  for (int at = 0; at < calls; ++at) {
    start_over({1});
    plan = {.fault = Fault::kFail, .at = at, .error = EIO};
    const std::string message = checkpoint_error([&] { save_small(root_, 2, 2); });
    plan = {};
    EXPECT_THAT(message, AllOf(HasSubstr(root_.string()), HasSubstr("step 2"), HasSubstr("Input/output error"))) << at;
    EXPECT_THAT(leftovers(root_), IsEmpty()) << at;
    // Only when the last call failed, the fsync after the rename, has the new one its name.
    const std::vector<std::int64_t> expected =
        at + 1 < calls ? std::vector<std::int64_t>{1} : std::vector<std::int64_t>{1, 2};
    EXPECT_EQ(steps_of(list_checkpoints(root_)), expected) << at;
    expect_small(CheckpointReader::open(root_ / "step_00000001"), 1);
    save_small(root_, 2, 22);  // and the next save works
    expect_small(CheckpointReader::open(root_ / "step_00000002"), 22);
    EXPECT_EQ(open_descriptors(), descriptors) << at;
  }
  // H5Fclose writes once more, after everything is flushed; an identifier that fails there cannot be closed again: at
  // most the one of each file.
  EXPECT_LE(h5_open_objects(), objects + 2);
}

// rows: large enough for several chunks, so that HDF5 fails within tensors as well as in its own records.
TEST_F(Interruption, ADiskThatFillsUpAtAnyWriteIsAnErrorThatSaysWhatWasNeeded) {
  constexpr std::int64_t kRows = 400'000;  // 12.8 MB
  start_over({1});
  const FaultPlan writes{.only_writes = true};
  const int calls = count_calls(writes, 2, kRows);
  ASSERT_GT(calls, 5);
  const std::size_t descriptors = open_descriptors();
  const std::int64_t objects = h5_open_objects();
  bool in_tensor = false;
  for (int at = 0; at < calls; ++at) {
    start_over({1});
    plan = {.fault = Fault::kFail, .at = at, .stays = true, .error = ENOSPC, .only_writes = true};
    const std::string message = checkpoint_error([&] { save_small(root_, 2, 2, kRows); });
    plan = {};
    EXPECT_THAT(message, AllOf(HasSubstr(root_.string()), HasSubstr("No space left on device"),
                               HasSubstr("bytes of tensors were written"), HasSubstr("are free there")))
        << at;
    if (message.find("12800000 more bytes needed") != message.npos) in_tensor = true;
    EXPECT_THAT(leftovers(root_), IsEmpty()) << at;
    EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(1)) << at;
    EXPECT_EQ(open_descriptors(), descriptors) << at;
  }
  EXPECT_TRUE(in_tensor);
  EXPECT_LE(h5_open_objects(), objects + 3);  // as above, and a virtual dataset's records
  save_small(root_, 3, 3, kRows);
  expect_small(CheckpointReader::open(root_ / "step_00000003"), 3);
}

// In a child: its own mount table, so that nothing stays mounted. Returns false where the system does not allow it.
bool mount_tmpfs(const fs::path& at, const char* size) {
  const int flags = CLONE_NEWNS | (::geteuid() == 0 ? 0 : CLONE_NEWUSER);
  if (::unshare(flags) != 0) return false;
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return false;
  return ::mount("tmpfs", at.c_str(), "tmpfs", 0, size) == 0;
}

TEST_F(Interruption, OnARealFullFileSystemTheOldCheckpointStaysAndSavingGoesOn) {
  constexpr int kNotAllowed = 77;
  const int code = in_child([&] {
    if (!mount_tmpfs(root_, "size=16m")) return kNotAllowed;
    save_small(root_, 1, 1);
    const std::int64_t objects = h5_open_objects();
    const auto comm = dist::make_single_comm();
    const std::vector<float> values(2'400'000, 1.0F);
    const TensorPiece piece{"/model/w", {2'400'000}, 0, content(values)};
    for (int round = 0; round < 20; ++round) {  // what a failed save held must be free again
      const std::string message = checkpoint_error([&] {
        ShardedSave save(
            root_, 2, {piece}, [](CheckpointWriter&) {}, *comm);
        write_bytes(root_ / "others", std::string(12 << 20, 'x'));  // there was room for it when it began
        save.write();
        save.finish();
      });
      fs::remove(root_ / "others");
      EXPECT_THAT(message, AllOf(HasSubstr(root_.string()), HasSubstr("file write failed: No space left on device (in"),
                                 HasSubstr("9600000 more bytes needed")));
      EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(1));
      EXPECT_THAT(leftovers(root_), IsEmpty());
    }
    EXPECT_EQ(h5_open_objects(), objects);
    EXPECT_THAT(checkpoint_error([&] { save_small(root_, 2, 2, /*rows=*/600'000); }),
                AllOf(HasSubstr("not enough space"), HasSubstr("19200000 more bytes needed")));
    save_small(root_, 3, 3, /*rows=*/60'000);
    expect_small(CheckpointReader::open(root_ / "step_00000001"), 1);
    expect_small(CheckpointReader::open(root_ / "step_00000003"), 3);
    return ::testing::Test::HasFailure() ? 1 : 0;
  });
  if (code == kNotAllowed) GTEST_SKIP() << "mounting a tmpfs is not allowed here; ADiskThatFillsUp... stands in for it";
  EXPECT_EQ(code, 0);
}

TEST_F(Interruption, AFileSizeLimitIsAnErrorToo) {
  EXPECT_EQ(in_child([&] {
              ::signal(SIGXFSZ, SIG_IGN);
              const rlimit limit{1 << 20, 1 << 20};
              if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
              save_small(root_, 1, 1);
              EXPECT_THAT(checkpoint_error([&] { save_small(root_, 2, 2, /*rows=*/300'000); }),
                          AllOf(HasSubstr("File too large"), HasSubstr("9600000 more bytes needed")));
              EXPECT_THAT(leftovers(root_), IsEmpty());
              EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(1));
              save_small(root_, 3, 3);
              expect_small(CheckpointReader::open(root_ / "step_00000003"), 3);
              return ::testing::Test::HasFailure() ? 1 : 0;
            }),
            0);
}

}  // namespace
}  // namespace qat

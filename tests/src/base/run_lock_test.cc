#include "src/base/run_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string refusal(const fs::path& dir) {
  try {
    const RunLock lock(dir);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

// The id of a process that has ended.
pid_t dead_process() {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(0);
  ::waitpid(pid, nullptr, 0);
  return pid;
}

// A lock file as this process would write it, but for some members.
void plant_lock(const fs::path& dir, const Value::Object& changes) {
  Value content;
  {
    const RunLock lock(dir);
    content = parse_json(read_file(lock.path()), "lock");
  }
  for (const Value::Member& change : changes) content.set(change.key, change.value);
  write_file_atomic(dir / "run.lock", to_json(content));
}

TEST(RunLock, NamesItsHolderAndIsGoneAfterwards) {
  const ScratchFolder folder;
  {
    const RunLock lock(folder.path(), "4711");
    const Value content = parse_json(read_file(lock.path()), "lock");
    EXPECT_EQ(content.at("pid").as_int(), ::getpid());
    EXPECT_EQ(content.at("job").as_string(), "4711");
    EXPECT_GT(content.at("process_start").as_int(), 0);
    EXPECT_EQ(lock.replaced().host, "");
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(RunLock, RefusesASecondJobAndSaysWhoHasIt) {
  const ScratchFolder folder;
  const RunLock lock(folder.path(), "4711");
  const std::string message = refusal(folder.path());
  EXPECT_THAT(message, HasSubstr(folder.path().string()));
  EXPECT_THAT(message, HasSubstr("process " + std::to_string(::getpid())));
  EXPECT_THAT(message, HasSubstr("job 4711"));
  EXPECT_TRUE(fs::exists(lock.path()));  // the refused one left it alone
}

TEST(RunLock, RefusesAnotherLivingProcessOfThisHost) {
  const ScratchFolder folder;
  plant_lock(folder.path(), {{"pid", static_cast<std::int64_t>(::getppid())}, {"process_start", 0}});
  EXPECT_THAT(refusal(folder.path()), HasSubstr("is in use by process " + std::to_string(::getppid())));
}

TEST(RunLock, TakesOverWhatADeadProcessLeft) {
  const ScratchFolder folder;
  const pid_t dead = dead_process();
  plant_lock(folder.path(), {{"pid", static_cast<std::int64_t>(dead)}});
  const RunLock lock(folder.path());
  EXPECT_EQ(lock.replaced().pid, dead);
  EXPECT_EQ(parse_json(read_file(lock.path()), "lock").at("pid").as_int(), ::getpid());
}

TEST(RunLock, TakesOverWhenTheProcessIdNowBelongsToAnother) {
  const ScratchFolder folder;
  plant_lock(folder.path(), {{"process_start", 1}});
  const RunLock lock(folder.path());
  EXPECT_EQ(lock.replaced().process_start, 1);
}

TEST(RunLock, TakesOverFromAZombie) {
  const ScratchFolder folder;
  const pid_t zombie = ::fork();
  if (zombie == 0) ::_exit(0);
  siginfo_t info{};
  ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(zombie), &info, WEXITED | WNOWAIT), 0);
  plant_lock(folder.path(), {{"pid", static_cast<std::int64_t>(zombie)}, {"process_start", 0}});
  EXPECT_EQ(RunLock(folder.path()).replaced().pid, zombie);
  ::waitpid(zombie, nullptr, 0);
}

TEST(RunLock, TakesOverFromAnEarlierStartOfTheSameJobOnAnotherHost) {
  const ScratchFolder folder;
  plant_lock(folder.path(), {{"host", "another-host"}, {"job", "4711"}});
  EXPECT_THROW(RunLock(folder.path(), "4711", 0), Error);  // another step of the same start
  EXPECT_THROW(RunLock(folder.path(), "4712", 1), Error);
  EXPECT_THROW(RunLock(folder.path(), "", 1), Error);
  const RunLock lock(folder.path(), "4711", 1);
  EXPECT_EQ(lock.replaced().host, "another-host");
  EXPECT_EQ(parse_json(read_file(lock.path()), "lock").at("job_restart").as_int(), 1);
}

TEST(RunLock, LeavesALockOfAnotherHostAloneAndSaysWhatToDelete) {
  const ScratchFolder folder;
  plant_lock(folder.path(), {{"host", "another-host"}});
  const std::string message = refusal(folder.path());
  EXPECT_THAT(message, HasSubstr("another-host"));
  EXPECT_THAT(message, HasSubstr("delete " + (folder.path() / "run.lock").string()));
  EXPECT_TRUE(fs::exists(folder.path() / "run.lock"));
}

TEST(RunLock, DoesNotTakeAForeignFileForALock) {
  const ScratchFolder folder;
  write_file_atomic(folder.path() / "run.lock", "my notes");
  EXPECT_THAT(refusal(folder.path()), HasSubstr("is no lock file of this program"));
  EXPECT_EQ(read_file(folder.path() / "run.lock"), "my notes");
}

TEST(RunLock, DoesNotReleaseALockThatSomebodyElseTookMeanwhile) {
  const ScratchFolder folder;
  {
    const RunLock lock(folder.path());
    write_file_atomic(lock.path(), "{}");
  }
  EXPECT_TRUE(fs::exists(folder.path() / "run.lock"));
}

TEST(RunLock, OfManyThatStartAtOnceOneGetsIt) {
  const ScratchFolder folder;
  plant_lock(folder.path(), {{"pid", static_cast<std::int64_t>(dead_process())}});  // and all must judge a stale lock
  int go[2], done[2];
  ASSERT_EQ(::pipe(go), 0);
  ASSERT_EQ(::pipe(done), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 8; ++i) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      char byte = 0;
      ::close(go[1]);
      ::close(done[1]);
      (void)!::read(go[0], &byte, 1);  // returns when the parent closes its end
      try {
        const RunLock lock(folder.path());
        (void)!::read(done[0], &byte, 1);  // holds it until all others have tried
        ::_exit(0);
      } catch (const Error&) {
        ::_exit(1);
      }
    }
    children.push_back(pid);
  }
  ::close(go[1]);
  // Seven end by themselves; the one that got the lock waits for us.
  int refused = 0, got = 0;
  for (int i = 0; i < 8; ++i) {
    if (i == 7) ::close(done[1]);
    int status = 0;
    ASSERT_GT(::waitpid(-1, &status, 0), 0);
    (WEXITSTATUS(status) == 1 ? refused : got) += 1;
  }
  ::close(go[0]);
  ::close(done[0]);
  EXPECT_EQ(refused, 7);
  EXPECT_EQ(got, 1);
}

TEST(RunLock, ItsHolderIsNamedWithoutTakingIt) {
  const ScratchFolder folder;
  EXPECT_EQ(run_lock_holder(folder.path()), std::nullopt);
  {
    const RunLock lock(folder.path(), "4711");
    EXPECT_THAT(run_lock_holder(folder.path()).value_or(""),
                ::testing::AllOf(HasSubstr("process " + std::to_string(::getpid())), HasSubstr("job 4711")));
    EXPECT_TRUE(fs::exists(lock.path()));
  }
  plant_lock(folder.path(), {{"pid", static_cast<std::int64_t>(dead_process())}, {"process_start", 0}});
  EXPECT_EQ(run_lock_holder(folder.path()), std::nullopt);
  EXPECT_TRUE(fs::exists(folder.path() / "run.lock"));  // left for the run, which says so
  plant_lock(folder.path(), {{"host", "elsewhere"}, {"job", "7"}});
  EXPECT_THAT(run_lock_holder(folder.path()).value_or(""), HasSubstr("on elsewhere"));
  EXPECT_EQ(run_lock_holder(folder.path(), "7", 1), std::nullopt);  // that job, requeued since
}

}  // namespace
}  // namespace qat

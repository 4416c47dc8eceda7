#include "dist/watch/process_id.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/common/process_stat.h"

namespace qat::dist {
namespace {

// A child that sleeps until it is killed.
class Child {
 public:
  Child() : pid_(fork()) {
    if (pid_ != 0) return;
    for (;;) pause();
  }
  ~Child() {
    kill(pid_, SIGKILL);
    reap();
  }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  // The signal that ended it.
  int reap() {
    int status = 0;
    if (waitpid(pid_, &status, 0) != pid_) return -1;
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
  }
  void wait_for_state(char state) const {
    while (process_stat(pid_)->state != state) usleep(1000);
  }
  pid_t pid() const { return pid_; }
  ProcessId id() const { return {.pid = pid_, .start = process_stat(pid_)->start}; }

 private:
  pid_t pid_;
};

TEST(ProcessId, ThisProcessIsAliveAndNeverKillsItself) {
  const ProcessId me = this_process();
  EXPECT_EQ(me.pid, getpid());
  EXPECT_GT(me.start, 0);
  EXPECT_TRUE(is_alive(me));
  kill_if_alive(me);
}

TEST(ProcessId, AStoppedProcessIsAliveAndCanBeKilled) {
  Child child;
  kill(child.pid(), SIGSTOP);
  child.wait_for_state('T');
  const ProcessId id = child.id();
  EXPECT_TRUE(is_alive(id));
  kill_if_alive(id);
  child.wait_for_state('Z');
  EXPECT_FALSE(is_alive(id)) << "it waits only to be reaped";
  EXPECT_EQ(child.reap(), SIGKILL);
  EXPECT_FALSE(process_stat(child.pid()));
}

TEST(ProcessId, AnotherProcessOfTheSameNumberIsLeftAlone) {
  Child child;
  ProcessId id = child.id();
  ++id.start;
  EXPECT_FALSE(is_alive(id));
  kill_if_alive(id);
  kill_if_alive({.pid = child.pid()});
  usleep(50000);
  EXPECT_NE(process_stat(child.pid())->state, 'Z');
}

TEST(ProcessId, SpacesAreKnownHere) {
  EXPECT_FALSE(process_space().empty());
  EXPECT_FALSE(network_space().empty());
}

}  // namespace
}  // namespace qat::dist

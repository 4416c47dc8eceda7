#include "src/memory/host_memory.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/src/base/scratch_folder.h"
#include "tests/support/byte_units.h"

namespace qat {
namespace {

using test::kMiB;

namespace fs = std::filesystem;

// A machine's files below a folder.
class Machine {
 public:
  Machine() {
    write("proc/meminfo", "MemTotal:       16384000 kB\nMemFree:          1000 kB\nMemAvailable:    8388608 kB\n");
    write("proc/self/status",
          "Name:\tqat_dist\nVmPeak:\t  900000 kB\nVmSize:\t  800000 kB\nVmHWM:\t  204800 kB\n"
          "VmRSS:\t  102400 kB\nVmData:\t   50000 kB\n");
  }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((folder_.path() / name).parent_path());
    std::ofstream(folder_.path() / name) << text;
  }
  void version2(const std::string& group, const std::string& mounted_group = "/") const {
    write("proc/self/cgroup", "0::" + group + "\n");
    write("proc/self/mountinfo", "24 1 0:22 / /proc rw shared:5 - proc proc rw\n31 23 0:27 " + mounted_group +
                                     " /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n");
  }
  void version1(const std::string& group, const std::string& mounted_group = "/") const {
    write("proc/self/cgroup", "9:name=systemd:/\n5:cpu,cpuacct:/elsewhere\n4:memory:" + group + "\n0::/\n");
    write("proc/self/mountinfo", "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n35 31 0:32 " +
                                     mounted_group + " /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
  }
  HostMemory read() const { return read_host_memory(folder_.path()); }
  const fs::path& path() const { return folder_.path(); }

 private:
  ScratchFolder folder_;
};

TEST(HostMemory, WithoutLimitsIsWhatTheKernelCallsAvailable) {
  const HostMemory host = Machine().read();
  EXPECT_EQ(host.shared_free, 8192 * kMiB);
  EXPECT_EQ(host.shared_source, "free memory of this host");
  EXPECT_EQ(host.resident, 100 * kMiB);
  EXPECT_EQ(host.peak_resident, 200 * kMiB);
}

TEST(HostMemory, AControlGroupOfVersion2LimitsIt) {
  const Machine machine;
  machine.version2("/jobs/job 7");
  machine.write("sys/fs/cgroup/jobs/job 7/memory.max", "1073741824\n");
  machine.write("sys/fs/cgroup/jobs/job 7/memory.current", "536870912\n");
  EXPECT_EQ(machine.read().shared_free, 512 * kMiB);
  EXPECT_EQ(machine.read().shared_source, "memory limit of the control group /jobs/job 7");
  // Pages of files make room when they must.
  machine.write("sys/fs/cgroup/jobs/job 7/memory.stat",
                "anon 1\nfile 999999999\ninactive_file_x 5\ninactive_file 104857600\nactive_file 104857600\n");
  EXPECT_EQ(machine.read().shared_free, 712 * kMiB);
  // A group around it may leave less.
  machine.write("sys/fs/cgroup/jobs/memory.max", "2147483648\n");
  machine.write("sys/fs/cgroup/jobs/memory.current", "2042626048\n");
  EXPECT_EQ(machine.read().shared_free, 100 * kMiB);
  EXPECT_EQ(machine.read().shared_source, "memory limit of the control group /jobs");
  machine.write("sys/fs/cgroup/jobs/memory.max", "max\n");
  machine.write("sys/fs/cgroup/jobs/job 7/memory.max", "max\n");
  EXPECT_EQ(machine.read().shared_free, 8192 * kMiB);
}

TEST(HostMemory, AControlGroupOfVersion1LimitsIt) {
  const Machine machine;
  machine.version1("/slurm/uid_0/job_1");
  machine.write("sys/fs/cgroup/memory/slurm/uid_0/job_1/memory.limit_in_bytes", "1073741824\n");
  machine.write("sys/fs/cgroup/memory/slurm/uid_0/job_1/memory.usage_in_bytes", "1048576\n");
  machine.write("sys/fs/cgroup/memory/slurm/uid_0/job_1/memory.stat",
                "inactive_file 900\ntotal_inactive_file 524288\ntotal_active_file 0\n");
  // "No limit" is a large number.
  machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "9000000000\n");
  EXPECT_EQ(machine.read().shared_free, 1023 * kMiB + 512 * 1024);
  EXPECT_EQ(machine.read().shared_source, "memory limit of the control group /slurm/uid_0/job_1");
}

TEST(HostMemory, AContainerSeesItsOwnGroupAtTheMountAndTheHostsPath) {
  const Machine machine;
  machine.version2("/docker/0123", "/docker/0123");
  machine.write("sys/fs/cgroup/memory.max", "1073741824\n");
  machine.write("sys/fs/cgroup/memory.current", "0\n");
  EXPECT_EQ(machine.read().shared_free, 1024 * kMiB);
  machine.version1("/docker/4567", "/");  // a mount that hides the way there
  machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n");
  machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", "0\n");
  EXPECT_EQ(machine.read().shared_free, 512 * kMiB);
}

TEST(HostMemory, WhatCannotBeReadLimitsNothing) {
  const ScratchFolder empty;
  const HostMemory host = read_host_memory(empty.path());
  EXPECT_EQ(host.shared_free, kNoLimit);
  EXPECT_EQ(share_of(host, 4, 1).bytes, kNoLimit);
  const Machine machine;
  machine.version2("/gone");
  machine.write("sys/fs/cgroup/gone/memory.max", "lots\n");
  machine.write("sys/fs/cgroup/gone/memory.current", "");
  EXPECT_EQ(machine.read().shared_free, 8192 * kMiB);
}

TEST(HostMemory, ThisProcessIsSomewhere) {
  const HostMemory host = read_host_memory();
  EXPECT_GT(host.shared_free, 0);
  EXPECT_LT(host.shared_free, kNoLimit);
  EXPECT_GT(host.resident, kMiB);
  EXPECT_GE(host.peak_resident, host.resident);
}

TEST(MemoryShare, IsTheRanksPartOfWhatIsFreeOrItsOwnLimit) {
  HostMemory host{.shared_free = 8000, .shared_source = "free memory of this host", .resident = 100};
  EXPECT_EQ(share_of(host, 1, 1).bytes, 8100);
  EXPECT_EQ(share_of(host, 1, 1).source, "free memory of this host");
  EXPECT_EQ(share_of(host, 4, 1).bytes, 2100);
  EXPECT_EQ(share_of(host, 4, 1).source, "free memory of this host / 4 ranks");
  host.own_free = 3000, host.own_source = "ulimit -d";
  EXPECT_EQ(share_of(host, 4, 2).bytes, 2100);
  EXPECT_EQ(share_of(host, 2, 2).bytes, 3100);
  EXPECT_EQ(share_of(host, 2, 2).source, "ulimit -d");
}

TEST(MemoryShare, ThreadsTakeAddressSpaceThatIsNotMemory) {
  HostMemory host{.shared_free = 100 << 20, .shared_source = "", .own_free = 90 << 20, .own_source = "ulimit -v"};
  EXPECT_EQ(share_of(host, 1, 1).bytes, 90 << 20);
  EXPECT_EQ(share_of(host, 1, 2).bytes, (90 - 72) << 20);
  EXPECT_EQ(share_of(host, 1, 9).bytes, 0);
}

}  // namespace
}  // namespace qat

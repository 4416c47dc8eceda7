#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <span>

#include "dist/comm/agree.h"
#include "dist/comm/mpi_launcher.h"
#include "dist/comm/nccl_versions.h"
#include "dist/comm/start_hints.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/cuda_versions.h"
#include "launch/build_id.h"
#include "launch/doctor/probe.h"
#include "src/base/file.h"
#include "src/checkpoint/shared_folder.h"
#include "src/memory/host_memory.h"

extern char** environ;  // NOLINT: POSIX has it so

namespace qat::launch {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* const text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return text == nullptr ? "" : text;
}

std::string first_line(const std::string& path) {
  try {
    const std::string text = read_file(path);
    return text.substr(0, text.find('\n'));
  } catch (const Error&) {
    return {};
  }
}

// -1: no limit.
std::int64_t limit_of(int resource) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return -1;
  return static_cast<std::int64_t>(limit.rlim_cur);
}

std::int64_t free_bytes(const std::string& folder) {
  struct statvfs info = {};
  if (statvfs(folder.c_str(), &info) != 0) return -1;
  return static_cast<std::int64_t>(info.f_frsize) * static_cast<std::int64_t>(info.f_bavail);
}

// Of the mount that holds the folder: the longest mount point that it lies under.
std::string file_system_of(const fs::path& folder) {
  std::error_code error;
  const std::string path = fs::weakly_canonical(folder, error).string() + "/";
  std::string type = "unknown";
  std::size_t longest = 0;
  std::string mounts;
  try {
    mounts = read_file("/proc/self/mounts");
  } catch (const Error&) {
    return type;
  }
  std::istringstream lines(mounts);
  for (std::string device, at, kind, rest; lines >> device >> at >> kind && std::getline(lines, rest);) {
    const std::string below = at == "/" ? "/" : at + "/";
    if (path.starts_with(below) && below.size() >= longest) longest = below.size(), type = kind;
  }
  return type;
}

std::vector<std::string> interfaces() {
  std::vector<std::string> all;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return all;
  for (const ifaddrs* one = list; one != nullptr; one = one->ifa_next) {
    if ((one->ifa_flags & IFF_UP) == 0 || one->ifa_addr == nullptr || one->ifa_addr->sa_family != AF_INET) continue;
    std::array<char, NI_MAXHOST> host{};
    if (getnameinfo(one->ifa_addr, sizeof(sockaddr_in), host.data(), host.size(), nullptr, 0, NI_NUMERICHOST) != 0)
      continue;
    std::string text = fmt::format("{} {}", one->ifa_name, host.data());
    const std::string speed = first_line(fmt::format("/sys/class/net/{}/speed", one->ifa_name));
    if (std::atoll(speed.c_str()) > 0) text += fmt::format(" {} Mbit/s", speed);
    all.push_back(std::move(text));
  }
  freeifaddrs(list);
  return all;
}

std::string launcher() {
  if (!variable("OMPI_COMM_WORLD_SIZE").empty()) return variable("SLURM_JOB_ID").empty() ? "mpirun" : "mpirun in Slurm";
  const dist::SlurmTask task = dist::slurm_task();
  if (!task.started_by_srun) return "hand";
  return task.pmix ? "srun --mpi=pmix" : task.pmi ? "srun --mpi=pmi2" : "srun";
}

std::vector<std::string> telling_variables() {
  std::vector<std::string> all;
  for (char** one = environ; *one != nullptr; ++one) {
    const std::string text = *one;
    for (const char* prefix :
         {"NCCL_", "OMPI_MCA_btl", "OMPI_MCA_pml", "UCX_", "CUDA_VISIBLE_DEVICES=", "OMP_NUM_THREADS="})
      if (text.starts_with(prefix)) {
        all.push_back(text);
        break;
      }
  }
  std::sort(all.begin(), all.end());
  return all;
}

// The folder, or the nearest above it that is there: a run makes the rest.
fs::path existing_part(const std::string& asked) {
  std::error_code error;
  fs::path folder = fs::absolute(asked, error).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // "runs/"
  while (!fs::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  return folder;
}

// What could not be done in the folder; empty: everything. seconds: of the file's way to the disk and its name.
std::string try_folder(const fs::path& folder, int rank, double& seconds) {
  const fs::path temporary = folder / fmt::format(".doctor-{}-{}.tmp", rank, ::getpid());
  const fs::path named = folder / fmt::format(".doctor-{}-{}", rank, ::getpid());
  const auto why = [](const char* what) { return fmt::format("{}: {}", what, std::generic_category().message(errno)); };
  const auto begin = std::chrono::steady_clock::now();
  std::string problem;
  {
    FileDescriptor file(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file.valid()) return why("cannot make a file there");
    const std::string bytes(1 << 20, 'x');
    if (!write_all(file.get(), bytes))
      problem = why("cannot write 1 MiB there");
    else if (fsync(file.get()) != 0)
      problem = why("fsync does not work there");
    else if (flock(file.get(), LOCK_EX | LOCK_NB) != 0)
      problem = why("files cannot be locked there");
  }
  if (problem.empty() && rename(temporary.c_str(), named.c_str()) != 0) problem = why("cannot rename a file there");
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  seconds = took.count();
  std::error_code ignored;
  fs::remove(temporary, ignored);
  fs::remove(named, ignored);
  return problem;
}

}  // namespace

RankFacts look_at_host(const World& world) {
  RankFacts facts{.host = world.session().host_name(),
                  .local_rank = world.session().local_rank(),
                  .local_size = world.session().local_size(),
                  .version = QAT_VERSION,
                  .build = fmt::format("{:016x}", build_id()),
                  .compiler = fmt::format("g++ {}.{}", __GNUC__, __GNUC_MINOR__),
                  .libtorch = TORCH_VERSION,
                  .mpi = dist::mpi_library()};
#ifdef __clang__
  facts.compiler = fmt::format("clang {}.{}", __clang_major__, __clang_minor__);
#endif
  const CudaVersions cuda = cuda_versions();
  facts.cuda_runtime = cuda.runtime;
  facts.cuda_driver = cuda.driver;
  const dist::NcclVersions nccl = dist::nccl_versions();
  facts.nccl_built = nccl.built;
  facts.nccl_loaded = nccl.loaded;
  facts.cores = sysconf(_SC_NPROCESSORS_ONLN);
  cpu_set_t mask;
  CPU_ZERO(&mask);
  facts.allowed_cores = sched_getaffinity(0, sizeof(mask), &mask) == 0 ? CPU_COUNT(&mask) : facts.cores;
  std::array<double, 1> load{};
  if (getloadavg(load.data(), 1) == 1) facts.load = load[0];
  const HostMemory host = read_host_memory();
  const MemoryShare share = share_of(host, world.session().local_size(), /*threads=*/1);
  facts.memory_free = share.bytes == kNoLimit ? -1 : share.bytes;
  facts.memory_source = share.source;
  const dist::SharedMemoryNeed need = dist::shared_memory_need();
  facts.shared_folder = need.folder.empty() ? "/dev/shm" : need.folder;
  facts.shared_needed = need.bytes;
  facts.shared_free = free_bytes(facts.shared_folder);
  facts.open_files = limit_of(RLIMIT_NOFILE);
  facts.locked_memory = limit_of(RLIMIT_MEMLOCK);
  facts.cpu_governor = first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
  facts.interfaces = interfaces();
  facts.launcher = launcher();
  facts.slurm_job = World::job_id();
  if (const std::string cpus = variable("SLURM_CPUS_PER_TASK"); !cpus.empty())
    facts.slurm_cpus_per_task = std::atoll(cpus.c_str());
  facts.variables = telling_variables();
  facts.gpus_seen = cuda_device_count();
  return facts;
}

void look_at_folder(World& world, const std::string& asked, RankFacts& facts) {
  const fs::path folder = existing_part(asked);
  facts.folder = folder.string();
  facts.folder_type = file_system_of(folder);
  facts.folder_free = free_bytes(folder);
  facts.folder_problem = try_folder(folder, world.rank(), facts.folder_sync_s);
  if (!facts.folder_problem.empty()) facts.folder_problem = fmt::format("{}: {}", facts.folder, facts.folder_problem);
  const std::vector<std::string> problems = dist::gather_strings(world.comm(), facts.folder_problem);
  if (!problems.front().empty()) return;  // rank 0 cannot show the others anything
  const std::vector<std::string> hosts = dist::gather_strings(world.comm(), world.session().host_name());
  try {
    require_shared_folder(folder, "the run folder", hosts, world.comm());
  } catch (const dist::AgreedError& other) {
    if (facts.folder_problem.empty()) facts.folder_problem = other.what();
  }
}

std::vector<ClockOffset> compare_clocks(World& world) {
  constexpr int kRounds = 5;
  const auto now = [] {
    return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  };
  dist::Communicator& comm = world.comm();
  std::vector<ClockOffset> offsets(static_cast<std::size_t>(world.size()));
  std::vector<double> time(1);
  for (int rank = 1; rank < world.size(); ++rank) {
    ClockOffset& best = offsets[static_cast<std::size_t>(rank)];
    best.error_s = 1e9;
    for (int round = 0; round < kRounds; ++round) {
      if (world.is_root()) {
        const double begin = now();
        comm.send(view(std::span<const double>(time)), rank, 0);
        comm.receive(view(std::span<double>(time)), rank, 1);
        const double end = now();
        if ((end - begin) / 2 < best.error_s)
          best = {.ahead_s = time[0] - (begin + end) / 2, .error_s = (end - begin) / 2};
      } else if (world.rank() == rank) {
        comm.receive(view(std::span<double>(time)), 0, 0);
        time[0] = now();
        comm.send(view(std::span<const double>(time)), 0, 1);
      }
    }
  }
  return offsets;
}

}  // namespace qat::launch

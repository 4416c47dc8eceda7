#include "src/doctor/findings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>

#include "src/doctor/finding_list.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20, kGiB = std::int64_t{1} << 30;

class Judge : private FindingList {
 public:
  Judge(std::span<const RankFacts> facts, const LinkFacts& links) : FindingList(facts), links_(links) {}

  std::vector<MachineFinding> all() {
    build();
    judge_versions(*this);
    start();
    cores();
    if (!on_gpus()) judge_speed(*this);
    gpus();
    if (on_gpus()) judge_speed(*this);
    memory();
    shared_memory();
    limits();
    clocks();
    folder();
    interfaces();
    judge_links(*this, links_);
    return take();
  }

 private:
  void build() {
    const auto other =
        where([&](const RankFacts& f) { return f.build != root().build || f.version != root().version; });
    if (!other.empty())
      fault("build", fmt::format("{} run another qat_dist than rank 0", on_hosts(other)),
            "start one program, at a path that all hosts share: builds may differ in bits");
    else
      ok("build", fmt::format("qat_dist {} ({}), {}", root().version, root().compiler,
                              root().cuda_runtime > 0 ? "with CUDA" : "without CUDA"));
  }

  void start() {
    const auto hosts_here = hosts();
    std::string text =
        fmt::format("{} rank{} on {} host{}, started by {}", facts().size(), facts().size() == 1 ? "" : "s",
                    hosts_here.size(), hosts_here.size() == 1 ? "" : "s", root().launcher);
    if (!root().slurm_job.empty()) text += ", Slurm job " + root().slurm_job;
    ok("start", text);
    if (!root().slurm_job.empty() && facts().size() == 1)
      warn("start", "one rank alone in a Slurm job: links between ranks are not looked at",
           "srun --mpi=pmix build/qat_dist doctor");
    const auto uneven = where([&](const RankFacts& f) { return f.local_size != root().local_size; });
    if (!uneven.empty())
      warn("start",
           fmt::format("{} ranks {}, and {} on rank 0's host", first(uneven).local_size, on_hosts(uneven),
                       root().local_size),
           "equally many ranks on each host: gradients then travel on two levels (srun --ntasks-per-node)");
    std::vector<std::string> set;
    for (const RankFacts& one : facts())
      for (const std::string& variable : one.variables)
        if (std::find(set.begin(), set.end(), variable) == set.end()) set.push_back(variable);
    if (!set.empty()) ok("start", fmt::format("set: {}", fmt::join(set, ", ")));
    for (const char* slow : {"NCCL_P2P_DISABLE=1", "NCCL_SHM_DISABLE=1", "NCCL_IB_DISABLE=1"})
      if (std::find(set.begin(), set.end(), slow) != set.end())
        warn("start", fmt::format("{} takes the fast way between GPUs away", slow),
             "unset it, unless it is a work-around");
  }

  // What goes for many hosts is one finding: "q3 and 12 more hosts".
  static std::string and_more(const RankFacts& host, std::size_t hosts) {
    if (hosts == 1) return host.host;
    return fmt::format("{} and {} more host{}", host.host, hosts - 1, hosts == 2 ? "" : "s");
  }

  std::vector<const RankFacts*> hosts_where(const Rule& rule) const {
    std::vector<const RankFacts*> found = hosts();
    std::erase_if(found, [&](const RankFacts* host) { return !rule(*host); });
    return found;
  }

  void cores() {
    std::vector<std::string> each;
    for (const RankFacts* host : hosts())
      if (const std::string one =
              fmt::format("{} for {} rank{}", host->cores, host->local_size, host->local_size == 1 ? "" : "s");
          std::find(each.begin(), each.end(), one) == each.end())
        each.push_back(one);
    ok("cores", fmt::format("a host's: {}; {} of them allowed to rank 0", fmt::join(each, ", "), root().allowed_cores));
    const auto full = hosts_where([](const RankFacts& f) { return f.local_size > f.cores; });
    if (!full.empty())
      warn("cores",
           fmt::format("{}: {} core{} for {} ranks, which take turns", and_more(*full.front(), full.size()),
                       full.front()->cores, full.front()->cores == 1 ? "" : "s", full.front()->local_size),
           "start no more ranks on a host than it has cores");
    const auto bound =
        hosts_where([&](const RankFacts& f) { return !on_gpus() && f.allowed_cores == 1 && f.cores > f.local_size; });
    if (!bound.empty())
      warn(
          "cores",
          fmt::format("{}: a rank may use 1 of {} cores", and_more(*bound.front(), bound.size()), bound.front()->cores),
          "mpirun --bind-to none, or srun --cpus-per-task");
    auto loaded = hosts_where(has_load);
    const auto lighter = [](const RankFacts* a, const RankFacts* b) { return a->load < b->load; };
    if (!loaded.empty()) {
      std::iter_swap(loaded.begin(), std::max_element(loaded.begin(), loaded.end(), lighter));
      warn("cores",
           fmt::format("{}: a load of {} on {} cores before anything was measured, so something else runs there",
                       and_more(*loaded.front(), loaded.size()), fixed(loaded.front()->load, 1), loaded.front()->cores),
           "look with top: it slows every rank down, and what is measured here says little");
    }
  }

  void gpus() {
    const auto troubled = where([](const RankFacts& f) { return !f.gpu_problem.empty(); });
    if (!troubled.empty())
      fault(
          "GPU", fmt::format("{}: {}", on_hosts(troubled), first(troubled).gpu_problem),
          "start as many ranks as there are GPUs, and let each see them (CUDA_VISIBLE_DEVICES, srun --gpus-per-node)");
    const auto with = where([](const RankFacts& f) { return f.gpu_memory > 0; });
    if (with.empty()) {
      if (troubled.empty() && root().cuda_runtime > 0 && root().gpus_seen >= 0)
        warn("GPU", "none is seen, though this program is built with CUDA", "nvidia-smi; CUDA_VISIBLE_DEVICES");
      return;
    }
    ok("GPU", fmt::format("{}: {}, {}", named(with), first(with).gpu, byte_size(first(with).gpu_memory)));
    const auto other = where([&](const RankFacts& f) { return f.gpu != root().gpu; });
    if (!other.empty())
      warn("GPU", fmt::format("{} has {}, and rank 0 {}", named(other), first(other).gpu, root().gpu),
           "GPUs of one kind: every step waits for the slowest");
    std::map<std::string, std::int64_t> seen;
    for (const RankFacts& one : facts())
      if (!one.gpu_id.empty() && !seen.emplace(one.gpu_id, one.rank).second)
        fault("GPU", fmt::format("ranks {} and {} have the same GPU, {}", seen[one.gpu_id], one.rank, one.gpu_id),
              "one rank a GPU");
    const auto taken = where([](const RankFacts& f) {
      return f.gpu_memory > 0 && f.gpu_memory_free >= 0 && f.gpu_memory_free < f.gpu_memory / 10 * 9;
    });
    if (!taken.empty())
      warn("GPU",
           fmt::format("{}: only {} of {} are free", on_hosts(taken), byte_size(first(taken).gpu_memory_free),
                       byte_size(first(taken).gpu_memory)),
           "nvidia-smi names the processes that hold the rest");
  }

  void memory() {
    const auto least = std::min_element(facts().begin(), facts().end(), [](const RankFacts& a, const RankFacts& b) {
      return a.memory_free < b.memory_free;
    });
    if (least->memory_free < 0) return;
    const std::string text = fmt::format("{} for a rank (least: rank {} on {}: {})", byte_size(least->memory_free),
                                         least->rank, least->host, least->memory_source);
    if (least->memory_free < kGiB)
      warn("memory", text,
           "fewer ranks a host, or a larger limit (sbatch --mem); `qat_dist plan` says what a run needs");
    else
      ok("memory", text);
  }

  void shared_memory() {
    const auto small = where([](const RankFacts& f) { return f.shared_free >= 0 && f.shared_free < f.shared_needed; });
    if (!small.empty())
      fault("shared memory",
            fmt::format("{}: {} has {} free, and its ranks need {}", on_hosts(small), first(small).shared_folder,
                        byte_size(first(small).shared_free), byte_size(first(small).shared_needed)),
            "mount -o remount,size=1g /dev/shm; in docker --shm-size=1g; or mpirun --mca btl self,tcp");
    else if (root().shared_free >= 0) {
      const auto tight = where([](const RankFacts& f) { return f.shared_free < 64 * kMiB; });
      if (!tight.empty())
        warn("shared memory",
             fmt::format("{}: /dev/shm has {} free", on_hosts(tight), byte_size(first(tight).shared_free)),
             "NCCL and Open MPI want tens of MiB a rank: --shm-size, or remove what dead jobs have left there");
      else
        ok("shared memory", fmt::format("/dev/shm has {} free", byte_size(root().shared_free)));
    }
  }

  void limits() {
    const auto files = where([](const RankFacts& f) { return f.open_files >= 0 && f.open_files < 1024; });
    if (!files.empty())
      warn("limits", fmt::format("{}: at most {} open files (ulimit -n)", on_hosts(files), first(files).open_files),
           "ulimit -n 4096, or LimitNOFILE of the service that starts jobs");
    const auto locked = where([](const RankFacts& f) { return f.locked_memory >= 0 && f.locked_memory < 64 * kMiB; });
    if (!locked.empty() && hosts().size() > 1)
      warn("limits",
           fmt::format("{}: at most {} of locked memory (ulimit -l)", on_hosts(locked),
                       byte_size(first(locked).locked_memory)),
           "InfiniBand needs it unlimited: PropagateResourceLimitsExcept=MEMLOCK in slurm.conf, limits.conf");
    if (files.empty() && (locked.empty() || hosts().size() == 1))
      ok("limits",
         fmt::format("open files {}", root().open_files < 0 ? "unlimited" : std::to_string(root().open_files)));
  }

  void clocks() {
    if (hosts().size() < 2) return;
    const auto worst = std::max_element(facts().begin(), facts().end(), [](const RankFacts& a, const RankFacts& b) {
      return std::abs(a.clock_ahead_s) < std::abs(b.clock_ahead_s);
    });
    const double off = worst->clock_ahead_s, error = worst->clock_error_s;
    const std::string text = fmt::format("{} is {:.3f} s {} rank 0's clock (to {:.3f} s)", worst->host, std::abs(off),
                                         off < 0 ? "behind" : "ahead of", error);
    if (std::abs(off) - error > 1.0)
      warn("clocks", text, "start chrony or ntpd there: logs, file times and Slurm's credentials compare clocks");
    else
      ok("clocks", text);
  }

  void folder() {
    const auto bad = where([](const RankFacts& f) { return !f.folder_problem.empty(); });
    if (!bad.empty()) {
      fault("run folder", fmt::format("{}: {}", on_hosts(bad), first(bad).folder_problem),
            "a run.dir on a file system that every host has under the same path, and may write to");
      return;
    }
    const RankFacts& one = root();
    double slowest = 0.0;
    for (const RankFacts& f : facts()) slowest = std::max(slowest, f.folder_sync_s);
    ok("run folder", fmt::format("{} ({}): {} free; 1 MiB flushed and renamed in {:.0f} ms; locks work", one.folder,
                                 one.folder_type, byte_size(one.folder_free), slowest * 1e3));
    if (one.folder_free >= 0 && one.folder_free < 10 * kGiB)
      warn("run folder", fmt::format("only {} are free in {}", byte_size(one.folder_free), one.folder),
           "`qat_dist plan` says what checkpoints take; checkpoint.keep bounds it");
    if (slowest > 2.0)
      warn("run folder", fmt::format("1 MiB takes {:.1f} s to reach the disk", slowest),
           "checkpoints are written beside training, but every step's records wait: take another file system");
    if (one.folder_type == "tmpfs")
      warn("run folder", one.folder + " is in memory: it is lost with the machine", "a run.dir on a disk");
  }

  void interfaces() {
    if (hosts().size() < 2) return;
    const auto none = where([](const RankFacts& f) {
      return std::none_of(f.interfaces.begin(), f.interfaces.end(), [](const std::string& name) {
        return !name.starts_with("lo ") && !name.starts_with("docker");
      });
    });
    if (!none.empty())
      fault("network", fmt::format("{}: no interface but the loopback is up", on_hosts(none)), "ip link; ip address");
    else
      ok("network", fmt::format("{}", fmt::join(root().interfaces, "; ")));
  }

  const LinkFacts& links_;
};

}  // namespace

std::vector<MachineFinding> judge(std::span<const RankFacts> facts, const LinkFacts& links) {
  return Judge(facts, links).all();
}

}  // namespace qat

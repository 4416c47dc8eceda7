#include "src/doctor/findings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <map>
#include <numeric>

#include "dist/comm/agree.h"
#include "src/report/numbers.h"

namespace qat {
namespace {

constexpr std::int64_t kMiB = std::int64_t{1} << 20, kGiB = std::int64_t{1} << 30;

// "rank 3", "ranks 0-3, 5", "all ranks".
std::string ranks_text(const std::vector<std::int64_t>& ranks, std::size_t all) {
  if (ranks.size() == all) return all == 1 ? "this rank" : "all ranks";
  return dist::name_ranks({ranks.begin(), ranks.end()});
}

class Judge {
 public:
  Judge(std::span<const RankFacts> facts, const LinkFacts& links) : facts_(facts), links_(links) {}

  std::vector<MachineFinding> all() {
    build();
    versions();
    start();
    cores();
    gpus();
    memory();
    shared_memory();
    limits();
    clocks();
    folder();
    interfaces();
    links();
    return std::move(findings_);
  }

 private:
  using Rule = std::function<bool(const RankFacts&)>;

  void add(FindingLevel level, std::string topic, std::string text, std::string fix = {}) {
    findings_.push_back({level, std::move(topic), std::move(text), std::move(fix)});
  }
  void ok(std::string topic, std::string text) { add(FindingLevel::kOk, std::move(topic), std::move(text)); }
  void warn(std::string topic, std::string text, std::string fix) {
    add(FindingLevel::kWarning, std::move(topic), std::move(text), std::move(fix));
  }
  void fault(std::string topic, std::string text, std::string fix) {
    add(FindingLevel::kFault, std::move(topic), std::move(text), std::move(fix));
  }

  std::vector<std::int64_t> where(const Rule& rule) const {
    std::vector<std::int64_t> ranks;
    for (const RankFacts& one : facts_)
      if (rule(one)) ranks.push_back(one.rank);
    return ranks;
  }
  std::string named(const std::vector<std::int64_t>& ranks) const { return ranks_text(ranks, facts_.size()); }
  const RankFacts& first(const std::vector<std::int64_t>& ranks) const {
    return facts_[static_cast<std::size_t>(ranks.front())];
  }
  // "on q1 (ranks 0-1)": the hosts of these ranks.
  std::string on_hosts(const std::vector<std::int64_t>& ranks) const {
    std::vector<std::string> hosts;
    for (const std::int64_t rank : ranks) {
      const std::string& host = facts_[static_cast<std::size_t>(rank)].host;
      if (std::find(hosts.begin(), hosts.end(), host) == hosts.end()) hosts.push_back(host);
    }
    return fmt::format("on {} ({})", fmt::join(hosts, ", "), named(ranks));
  }
  std::vector<const RankFacts*> hosts() const {
    std::vector<const RankFacts*> firsts;
    for (const RankFacts& one : facts_)
      if (one.local_rank == 0) firsts.push_back(&one);
    return firsts;
  }
  const RankFacts& root() const { return facts_.front(); }

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

  static std::string version_text(std::int64_t number, std::int64_t major, std::int64_t minor) {
    return fmt::format("{}.{}", number / major, number % major / minor);
  }

  void versions() {
    for (const auto& [name, member] : {std::pair{"LibTorch", &RankFacts::libtorch}, {"MPI", &RankFacts::mpi}}) {
      const auto other = where([&, of = member](const RankFacts& f) { return f.*of != root().*of; });
      if (!other.empty())
        fault("versions",
              fmt::format("{} of {} is {}, and rank 0's {}", name, named(other), first(other).*member, root().*member),
              "the same libraries on all hosts: module load, or LD_LIBRARY_PATH, as on rank 0's");
    }
    std::string text = fmt::format("LibTorch {}, {}", root().libtorch, root().mpi);
    if (root().cuda_runtime > 0) text += ", CUDA " + version_text(root().cuda_runtime, 1000, 10);
    if (root().nccl_loaded > 0)
      text += fmt::format(", NCCL {}.{}", version_text(root().nccl_loaded, 10000, 100), root().nccl_loaded % 100);
    ok("versions", text);
    known_bad();
  }

  // Ranges that are known not to work, or that nothing here was ever tried with.
  void known_bad() {
    int major = 0, minor = 0;
    if (std::sscanf(root().mpi.c_str(), "Open MPI v%d.%d", &major, &minor) == 2 && major * 100 + minor < 401)
      warn("versions", root().mpi + " is older than what this program is tried with (4.1)",
           "take Open MPI 4.1 or later");
    const auto driver = where([](const RankFacts& f) {
      return f.cuda_driver > 0 && f.cuda_runtime > 0 && f.cuda_driver / 1000 < f.cuda_runtime / 1000;
    });
    if (!driver.empty())
      fault("versions",
            fmt::format("{}: the driver is made for CUDA {}, this program for {}", on_hosts(driver),
                        version_text(first(driver).cuda_driver, 1000, 10),
                        version_text(first(driver).cuda_runtime, 1000, 10)),
            "update the driver there, or build with that CUDA (cmake --preset release with its nvcc)");
    const auto nccl =
        where([](const RankFacts& f) { return f.nccl_built > 0 && f.nccl_loaded > 0 && f.nccl_loaded < f.nccl_built; });
    if (!nccl.empty())
      fault("versions",
            fmt::format("{}: NCCL {} is loaded, older than {}, which this program is built with", on_hosts(nccl),
                        first(nccl).nccl_loaded, first(nccl).nccl_built),
            "let LD_LIBRARY_PATH find that of LibTorch first");
    const auto unlike = where([&](const RankFacts& f) { return f.nccl_loaded != root().nccl_loaded; });
    if (!unlike.empty())
      fault("versions",
            fmt::format("NCCL of {} is {}, and rank 0's {}", named(unlike), first(unlike).nccl_loaded,
                        root().nccl_loaded),
            "the same NCCL on all hosts");
  }

  void start() {
    const auto hosts_here = hosts();
    std::string text =
        fmt::format("{} rank{} on {} host{}, started by {}", facts_.size(), facts_.size() == 1 ? "" : "s",
                    hosts_here.size(), hosts_here.size() == 1 ? "" : "s", root().launcher);
    if (!root().slurm_job.empty()) text += ", Slurm job " + root().slurm_job;
    ok("start", text);
    if (!root().slurm_job.empty() && facts_.size() == 1)
      warn("start", "one rank alone in a Slurm job: links between ranks are not looked at",
           "srun --mpi=pmix build/qat_dist doctor");
    const auto uneven = where([&](const RankFacts& f) { return f.local_size != root().local_size; });
    if (!uneven.empty())
      warn("start",
           fmt::format("{} ranks {}, and {} on rank 0's host", first(uneven).local_size, on_hosts(uneven),
                       root().local_size),
           "equally many ranks on each host: gradients then travel on two levels (srun --ntasks-per-node)");
    std::vector<std::string> set;
    for (const RankFacts& one : facts_)
      for (const std::string& variable : one.variables)
        if (std::find(set.begin(), set.end(), variable) == set.end()) set.push_back(variable);
    if (!set.empty()) ok("start", fmt::format("set: {}", fmt::join(set, ", ")));
    for (const char* slow : {"NCCL_P2P_DISABLE=1", "NCCL_SHM_DISABLE=1", "NCCL_IB_DISABLE=1"})
      if (std::find(set.begin(), set.end(), slow) != set.end())
        warn("start", fmt::format("{} takes the fast way between GPUs away", slow),
             "unset it, unless it is a work-around");
  }

  void cores() {
    const bool gpu = root().gpu_memory > 0;
    std::vector<std::string> each;
    for (const RankFacts* host : hosts()) {
      if (const std::string one = fmt::format("{} for {} ranks", host->cores, host->local_size);
          std::find(each.begin(), each.end(), one) == each.end())
        each.push_back(one);
      if (host->local_size > host->cores)
        warn("cores",
             fmt::format("{} has {} cores for {} ranks: they take turns", host->host, host->cores, host->local_size),
             "start no more ranks on a host than it has cores");
      else if (host->allowed_cores == 1 && host->cores > host->local_size && !gpu)
        warn("cores", fmt::format("a rank on {} may use 1 of {} cores", host->host, host->cores),
             "mpirun --bind-to none, or srun --cpus-per-task");
      if (host->load > 1.5 * static_cast<double>(host->cores))
        warn("cores",
             fmt::format("the load of {} is {} with {} cores: something else runs there", host->host,
                         fixed(host->load, 1), host->cores),
             "look with top; what else computes there slows every rank down");
    }
    ok("cores", fmt::format("a host's: {}; {} of them allowed to rank 0", fmt::join(each, ", "), root().allowed_cores));
    speeds(gpu ? "GPU" : "cores");
  }

  // Ranks that are slower than the others by more than a tenth.
  void speeds(const std::string& topic) {
    struct Speed {
      const char* what;
      double RankFacts::*member;
      const char* unit;
    };
    for (const Speed& speed : {Speed{"products on int8 codes", &RankFacts::code_products, "op/s"},
                               Speed{"products on values", &RankFacts::float_products, "op/s"},
                               Speed{"copies", &RankFacts::copy_bytes, "B/s"}}) {
      double sum = 0.0;
      std::int64_t known = 0;
      for (const RankFacts& one : facts_)
        if (one.*speed.member > 0.0) sum += one.*speed.member, ++known;
      if (known == 0) continue;
      const double mean = sum / static_cast<double>(known);
      const auto slow =
          where([&](const RankFacts& f) { return f.*speed.member > 0.0 && f.*speed.member < 0.9 * mean; });
      if (!slow.empty() && facts_.size() > 1)
        warn(topic,
             fmt::format("{}: {} are {:.0f} % below the mean, {}{}", on_hosts(slow), speed.what,
                         100.0 * (1.0 - first(slow).*speed.member / mean), short_count(mean), speed.unit),
             topic == "GPU"
                 ? "nvidia-smi -q -d CLOCK,PERFORMANCE says what holds it back (power, heat); leave the GPU out"
                 : "what else runs there? Every rank waits for the slowest");
      else
        ok(topic, fmt::format("{}: {}{} a rank", speed.what, short_count(mean), speed.unit));
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
      if (troubled.empty() && root().cuda_runtime > 0)
        warn("GPU", "none is seen, though this program is built with CUDA", "nvidia-smi; CUDA_VISIBLE_DEVICES");
      return;
    }
    ok("GPU", fmt::format("{}: {}, {}", named(with), first(with).gpu, byte_size(first(with).gpu_memory)));
    const auto other = where([&](const RankFacts& f) { return f.gpu != root().gpu; });
    if (!other.empty())
      warn("GPU", fmt::format("{} has {}, and rank 0 {}", named(other), first(other).gpu, root().gpu),
           "GPUs of one kind: every step waits for the slowest");
    std::map<std::string, std::int64_t> seen;
    for (const RankFacts& one : facts_)
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
    const auto least = std::min_element(facts_.begin(), facts_.end(), [](const RankFacts& a, const RankFacts& b) {
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
    const auto worst = std::max_element(facts_.begin(), facts_.end(), [](const RankFacts& a, const RankFacts& b) {
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
    for (const RankFacts& f : facts_) slowest = std::max(slowest, f.folder_sync_s);
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

  void links() {
    if (links_.node_bytes > 0.0)
      ok("links", fmt::format("exchange of gradients in a node ({}): {}B/s a rank", links_.backend,
                              short_count(links_.node_bytes)));
    if (links_.network_bytes > 0.0)
      ok("links", fmt::format("exchange of gradients between nodes ({}): {}B/s a rank", links_.backend,
                              short_count(links_.network_bytes)));
    for (const bool same : {true, false}) {
      std::vector<LinkFacts::Neighbours> kind;
      std::copy_if(links_.ring.begin(), links_.ring.end(), std::back_inserter(kind),
                   [&](const LinkFacts::Neighbours& pair) { return pair.same_host == same; });
      if (kind.empty()) continue;
      std::vector<double> rates, delays;
      for (const auto& pair : kind) rates.push_back(pair.bytes), delays.push_back(pair.latency_s);
      std::nth_element(rates.begin(), rates.begin() + std::ssize(rates) / 2, rates.end());
      const double median = rates[rates.size() / 2], delay = *std::max_element(delays.begin(), delays.end());
      ok("links", fmt::format("point to point {}: {}B/s, {:.1f} us at most", same ? "in a node" : "between nodes",
                              short_count(median), delay * 1e6));
      for (const auto& pair : kind)
        if (pair.bytes < 0.5 * median)
          warn("links",
               fmt::format("rank {} to {}: {}B/s, less than half of the others'", pair.from, pair.to,
                           short_count(pair.bytes)),
               "ethtool, ibstat, nvidia-smi topo -m there: a link that has fallen back is the usual reason");
    }
  }

  std::span<const RankFacts> facts_;
  const LinkFacts& links_;
  std::vector<MachineFinding> findings_;
};

}  // namespace

std::vector<MachineFinding> judge(std::span<const RankFacts> facts, const LinkFacts& links) {
  return Judge(facts, links).all();
}

}  // namespace qat

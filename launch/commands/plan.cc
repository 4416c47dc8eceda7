#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "launch/command.h"
#include "launch/number_checks.h"
#include "launch/terminal.h"
#include "src/config/loader.h"
#include "src/config/validate.h"
#include "src/cost/known_gpus.h"
#include "src/cost/rates_file.h"
#include "src/cost/run_plan.h"
#include "src/cost/step_time.h"
#include "src/data/sampler.h"
#include "src/memory/host_memory.h"

namespace qat::launch {
namespace {

struct PlanArguments {
  std::string config;
  std::vector<std::string> sets;
  int ranks = 0, nodes = 0;
  std::string gpu, rates;
  double memory_gib = 0.0, measured_ms = 0.0;
  std::vector<double> network, link;  // GB/s, microseconds
  bool json = false;
};

// Where nothing was measured: 200 Gbit/s a GPU, at half of its speed; ranks that copy through shared memory; 10 Gbit/s
// Ethernet for nodes without GPUs.
constexpr Links kAssumedGpuLinks{.node_bytes = 10e9, .network_bytes = 12.5e9, .network_latency_s = 10e-6};
constexpr Links kAssumedCpuLinks{.node_bytes = 2e9, .network_bytes = 0.6e9, .network_latency_s = 50e-6};

[[noreturn]] void reject(const std::string& message) { throw Error(ErrorKind::kConfig, message); }

void fill_links(const Links& assumed, PlanMachine& machine, std::string& source) {
  Links& links = machine.place.links;
  const RankPlace& place = machine.place;
  if ((links.node_bytes == 0.0 && place.ranks_here() > 1) || (links.network_bytes == 0.0 && place.nodes > 1))
    source += "; exchange assumed";
  if (links.node_bytes == 0.0) links.node_bytes = assumed.node_bytes;
  if (links.network_bytes == 0.0) {
    links.network_bytes = assumed.network_bytes;
    links.network_latency_s = assumed.network_latency_s;
  }
}

// "25,5": GB/s and microseconds, in place of what was measured or assumed.
void use_link(const std::vector<double>& given, double& bytes, double& latency_s) {
  if (given.empty()) return;
  bytes = given[0] * 1e9;
  latency_s = given.size() > 1 ? given[1] * 1e-6 : 0.0;
}

void check_link(const char* option, const std::vector<double>& given) {
  if (given.empty() || (given[0] > 0.0 && (given.size() == 1 || given[1] >= 0.0))) return;
  reject(fmt::format("{} {}: expected GB/s above 0 and, behind a comma, microseconds of at least 0: {} 25,5", option,
                     fmt::join(given, ","), option));
}

// This machine's, of which a rank has an equal share.
void use_cpus(const RunConfig& config, PlanMachine& machine) {
  RankPlace& place = machine.place;
  machine.device = "CPU";
  if (place.cores == 0) place.cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  const int share = std::max(1, place.cores / place.ranks_here());
  place.threads = config.parallel.pipeline > 1           ? 1
                  : config.parallel.threads_per_rank > 0 ? config.parallel.threads_per_rank
                                                         : share;
  if (place.rates.bytes == 0.0) place.rates = cpu_rates(/*threads=*/1);
  if (machine.memory_bytes == kNoLimit) machine.memory_bytes = read_host_memory().shared_free;
}

void use_known_gpu(const std::string& name, PlanMachine& machine) {
  const KnownGpu* gpu = find_gpu(name);
  if (gpu == nullptr)
    reject(fmt::format(
        "--gpu {}: not a GPU that plans know: {}; measure it there with `qat_dist doctor --save rates.json` "
        "and plan with --rates rates.json",
        name, known_gpu_names()));
  machine.place.cuda = true;
  machine.place.rates = gpu->rates;
  machine.place.links = gpu->links;
  machine.device = gpu->name;
  machine.memory_bytes = gpu->memory_bytes;
}

void use_measured(const PlanArguments& arguments, PlanMachine& machine) {
  const MeasuredDevice measured = read_rates(arguments.rates);
  if (!arguments.gpu.empty() && (arguments.gpu == "none" ? measured.cuda : !measured.cuda))
    reject(fmt::format("--gpu {}: but {} was measured on {}; leave one of the two out", arguments.gpu, arguments.rates,
                       measured.device));
  machine.place.cuda = measured.cuda;
  machine.place.rates = measured.rates;
  machine.place.links = measured.links;
  machine.place.cores = measured.cores;
  machine.device = measured.device;
  machine.memory_bytes = measured.memory_bytes;
}

PlanMachine machine_of(const PlanArguments& arguments, const RunConfig& config) {
  PlanMachine machine;
  RankPlace& place = machine.place;
  place.ranks = arguments.ranks;
  place.nodes = arguments.nodes > 0 ? arguments.nodes : 1;
  if (place.ranks % place.nodes != 0)
    reject(fmt::format("--nodes {}: must divide --ranks {}, for each node has equally many", place.nodes, place.ranks));
  if (!arguments.rates.empty())
    use_measured(arguments, machine);
  else if (!arguments.gpu.empty() && arguments.gpu != "none")
    use_known_gpu(arguments.gpu, machine);
  else if (config.compute.device == DeviceChoice::kCuda)
    reject(fmt::format("compute.device is \"cuda\": say which GPU with --gpu ({}) or --rates FILE", known_gpu_names()));
  if (place.cuda && config.compute.device == DeviceChoice::kCpu)
    reject("compute.device is \"cpu\", which takes no GPU: leave --gpu out, or plan with --set compute.device=auto");
  if (!place.cuda) use_cpus(config, machine);
  if (arguments.memory_gib > 0.0)
    machine.memory_bytes = static_cast<std::int64_t>(arguments.memory_gib * static_cast<double>(1 << 30));
  use_link(arguments.network, place.links.network_bytes, place.links.network_latency_s);
  use_link(arguments.link, place.links.node_bytes, place.links.node_latency_s);
  fill_links(place.cuda ? kAssumedGpuLinks : kAssumedCpuLinks, machine, place.rates.source);
  return machine;
}

// Token files say how many they have; a plan is also made where they are not. Only a schedule by epochs needs them.
PlanData data_of(const RunConfig& config) {
  PlanData data;
  if (config.model.answers_questions()) {
    if (config.precision.unit == ScheduleUnit::kEpoch)
      reject("precision.unit = epoch: plans count no questions; plan with precision.unit=step");
    return data;
  }
  try {
    const TokenSource train = open_tokens(config.data.train, Split::kTrain);
    data.windows_per_epoch = Sampler(train, config.data.sequence_length, config.run.seed).windows_per_epoch();
    data.train_tokens = train.total_tokens();
  } catch (const Error& error) {
    if (config.precision.unit == ScheduleUnit::kEpoch)
      throw Error(error.kind(), fmt::format("precision.unit is epoch, so the plan needs data.train: {}", error.what()));
  }
  try {
    data.val_tokens = open_tokens(config.data.val, Split::kVal).total_tokens();
  } catch (const Error&) {
    data.val_tokens.reset();  // the plan says that it is not here
  }
  return data;
}

int plan(const PlanArguments& arguments) {
  const LoadResult loaded = load_run_config(
      arguments.config.empty() ? std::nullopt : std::optional<std::filesystem::path>(arguments.config), arguments.sets);
  validate_parallel(loaded.config, arguments.ranks);
  check_link("--network", arguments.network);
  check_link("--link", arguments.link);
  PlanMachine machine = machine_of(arguments, loaded.config);
  const PlanData data = data_of(loaded.config);
  if (arguments.measured_ms > 0.0) {
    machine.place.rates =
        fitted_rates(loaded.config, machine.place, arguments.measured_ms * 1e-3, data.windows_per_epoch);
    machine.place.rates.source += fmt::format("; scaled to a measured step of {:g} ms", arguments.measured_ms);
  }
  const RunPlan planned = make_run_plan(loaded.config, machine, data);
  for (const std::string& warning : loaded.warnings) warn(warning);
  print(arguments.json ? to_json(to_value(planned, loaded.config), 2) + "\n" : to_text(planned, loaded.config));
  return planned.fits() ? 0 : static_cast<int>(ErrorKind::kOutOfMemory);
}

}  // namespace

Run add_plan(CLI::App& app) {
  auto arguments = std::make_shared<PlanArguments>();
  app.add_option("-c,--config", arguments->config, "JSON configuration; without it every key has its default");
  app.add_option("--set", arguments->sets, "override: section.key=value, as often as needed")->take_all();
  app.add_option("--ranks", arguments->ranks, "processes of the run, over all nodes")
      ->required()
      ->check(between(1, 65536));
  app.add_option("--nodes", arguments->nodes, "that they are on (1)")->check(between(1, 65536));
  app.add_option("--gpu", arguments->gpu, "one for each rank: " + known_gpu_names() + "; none: CPUs like these here");
  app.add_option("--rates", arguments->rates, "rates that `qat_dist doctor --save` has measured, in place of --gpu");
  app.add_option("--memory", arguments->memory_gib, "GiB of each GPU or, of CPUs, of each node")->check(above(0));
  app.add_option("--network", arguments->network,
                 "GB/s that a rank sends to other nodes in an exchange, and microseconds of a message: 25,5")
      ->delimiter(',')
      ->expected(1, 2);
  app.add_option("--link", arguments->link, "the same of ranks of a node")->delimiter(',')->expected(1, 2);
  app.add_option("--measured-step", arguments->measured_ms,
                 "ms that a step of one replica's share of the batch takes on one rank, without stages: the rates are "
                 "scaled to it")
      ->check(above(0));
  app.add_flag("--json", arguments->json, "for programs: bytes and seconds");
  app.footer("Starts nothing and needs no GPU. Exit codes: 0 it fits, 5 it does not, 2 configuration or usage.");
  return [arguments](Invocation) { return plan(*arguments); };
}

}  // namespace qat::launch

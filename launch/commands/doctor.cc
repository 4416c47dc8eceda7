#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/agree.h"
#include "kernels/common/cuda_device.h"
#include "launch/command.h"
#include "launch/doctor/probe.h"
#include "launch/failure.h"
#include "launch/output_file.h"
#include "launch/terminal.h"
#include "launch/world.h"
#include "src/base/file.h"
#include "src/cost/known_gpus.h"
#include "src/cost/rates_file.h"
#include "src/doctor/findings.h"

namespace qat::launch {
namespace {

struct DoctorArguments {
  std::string folder = ".", save;
  bool cpu = false, json = false;
};

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm day{};
  gmtime_r(&now, &day);
  return fmt::format("{:04}-{:02}-{:02}", day.tm_year + 1900, day.tm_mon + 1, day.tm_mday);
}

// The GPU of this rank, where all ranks have one. What is in the way goes to `facts`, and CPUs are looked at instead.
ComputeMode choose_device(World& world, bool cpu, RankFacts& facts) {
  world.use_threads(1);
  if (cpu) facts.gpus_seen = -1;
  std::vector<std::int64_t> seen = {facts.gpus_seen, -facts.gpus_seen};
  world.comm().all_reduce(view(std::span(seen)), dist::ReduceOp::kMax);
  if (seen[0] <= 0) return {};
  if (seen[1] == 0) {
    if (facts.gpus_seen == 0) facts.gpu_problem = "this rank sees no GPU, and others do";
    return {};
  }
  ComputeMode mode;
  try {
    mode = world.use_device({.device = DeviceChoice::kCuda});
  } catch (const dist::AgreedError& error) {
    if (error.kind() == ErrorKind::kCommunication) throw;  // NCCL may have left a thread behind
    facts.gpu_problem = error.what();
    return {};
  }
  const CudaDeviceInfo gpu = cuda_device_info(mode.device.index());
  facts.gpu = gpu.name;
  facts.gpu_id = gpu.uuid;
  facts.gpu_memory = gpu.total_bytes;
  facts.gpu_memory_free = cuda_free_bytes();
  if (const KnownGpu* known = find_gpu(gpu.name); known != nullptr && known->rates.source == "measured") {
    facts.known_code_products = known->rates.code_products;
    facts.known_float_products = known->rates.bf16_products;
  }
  return mode;
}

// The machine as plans see it: its slowest rank's rates.
MeasuredDevice measured_device(const std::vector<RankFacts>& facts, const LinkFacts& links, const DeviceRates& rates) {
  const RankFacts& root = facts.front();
  MeasuredDevice measured{.device = root.gpu.empty() ? "CPU" : root.gpu,
                          .cuda = !root.gpu.empty(),
                          .host = root.host,
                          .made = today(),
                          .memory_bytes = root.gpu_memory,
                          .cores = static_cast<int>(root.cores),
                          .rates = rates};
  if (!measured.cuda) measured.memory_bytes = root.memory_free * root.local_size;
  for (const RankFacts& one : facts) {
    measured.rates.code_products = std::min(measured.rates.code_products, one.code_products);
    measured.rates.bytes = std::min(measured.rates.bytes, one.copy_bytes);
  }
  measured.links = {.node_bytes = std::max(0.0, links.node_bytes), .network_bytes = std::max(0.0, links.network_bytes)};
  for (const LinkFacts::Neighbours& two : links.ring) {
    double& latency = two.same_host ? measured.links.node_latency_s : measured.links.network_latency_s;
    latency = std::max(latency, two.latency_s);
  }
  return measured;
}

int doctor(World& world, const DoctorArguments& arguments) {
  dist::on_every_rank(world.comm(), "the file of --save", [&] {
    if (world.is_root()) prepare_output_file(arguments.save, "--save");
  });
  RankFacts mine = look_at_host(world);
  mine.rank = world.rank();
  look_at_folder(world, arguments.folder, mine);
  const std::vector<ClockOffset> clocks = compare_clocks(world);
  const ComputeMode mode = choose_device(world, arguments.cpu, mine);
  const DeviceRates rates = measure_speed(mode);
  mine.code_products = rates.code_products;
  mine.float_products = mode.is_cuda() ? rates.bf16_products : rates.fp32_products;
  mine.copy_bytes = rates.bytes;
  LinkFacts links = measure_links(world, mode);
  if (const KnownGpu* known = find_gpu(mine.gpu)) links.known_node_bytes = known->links.node_bytes;
  const std::vector<std::string> texts = dist::gather_strings(world.comm(), to_json(to_value(mine)));
  std::vector<RankFacts> facts;
  for (const std::string& text : texts)
    facts.push_back(facts_of(parse_json(text, "a rank's facts", ErrorKind::kInternal)));
  if (world.is_root())
    for (std::size_t rank = 0; rank < facts.size(); ++rank) {
      facts[rank].clock_ahead_s = clocks[rank].ahead_s;
      facts[rank].clock_error_s = clocks[rank].error_s;
    }
  const std::vector<MachineFinding> findings = judge(facts, links);
  dist::on_every_rank(world.comm(), "saving the rates", [&] {
    if (world.is_root() && !arguments.save.empty())
      write_file_atomic(arguments.save, rates_text(measured_device(facts, links, rates)));
  });
  if (world.is_root()) {
    if (arguments.json) {
      Value ranks = Value::array();
      for (const RankFacts& one : facts) ranks.push_back(to_value(one));
      print(to_json(Value::object({{"healthy", !has_fault(findings)},
                                   {"findings", to_value(findings)},
                                   {"links", to_value(links)},
                                   {"ranks", ranks}}),
                    2) +
            "\n");
    } else {
      print(to_text(findings, facts));
      if (!arguments.save.empty()) print(fmt::format("rates: {}\n", arguments.save));
    }
  }
  return has_fault(findings) ? static_cast<int>(ErrorKind::kSelfCheck) : 0;
}

}  // namespace

Run add_doctor(CLI::App& app) {
  auto arguments = std::make_shared<DoctorArguments>();
  app.add_option("--dir", arguments->folder, "a folder of the file system that run.dir is to be on (here)");
  app.add_option("--save", arguments->save, "write the measured rates there, for `qat_dist plan --rates`");
  app.add_flag("--cpu", arguments->cpu, "look at the CPUs, also where there are GPUs");
  app.add_flag("--json", arguments->json, "for programs: the findings, and what they were judged by");
  app.footer(
      "Under mpirun or srun --mpi=pmix, with as many ranks as the run would have, the hosts and the links between them "
      "are compared. Exit codes: 0 nothing is in the way, 9 something is.");
  return [arguments](Invocation invocation) {
    RunStatus status;
    World world(invocation.argc, invocation.argv);
    return run_guarded(world, status, [&] {
      status.start_watchdog(world, WatchdogConfig{});
      return doctor(world, *arguments);
    });
  };
}

}  // namespace qat::launch

#include "launch/settle_wire.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/grad/wire_trial.h"
#include "kernels/common/cuda_device.h"
#include "src/base/json.h"
#include "src/checkpoint/catalog.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/train_state.h"
#include "src/cost/planned_wire.h"
#include "src/memory/memory_model.h"
#include "src/report/numbers.h"
#include "src/train/gradient_sync.h"
#include "src/train/wire_of.h"

namespace qat::launch {
namespace {

// Gradients of fewer parameters are soon sent: what matters there is how often ranks talk, not how much.
constexpr std::int64_t kFewElems = 1 << 20;
constexpr std::int64_t kTrialElems = 4 << 20;

// That of the checkpoint which the run goes on from; empty: there is none, or it was never decided. Rank 0's work. What
// is wrong with a checkpoint is said by who loads it.
std::string stored_wire(const RunSection& run) {
  if (run.resume == "never") return {};
  try {
    const ReadOptions quickly{.verify_hash = false, .hold_files = false};
    const auto silent = [](const std::string&) {};
    const auto reader = run.resume == "auto"
                            ? open_newest_valid(std::filesystem::path(run.dir) / "checkpoints", silent, quickly)
                            : std::optional<CheckpointReader>(open_checkpoint(run.resume, silent, quickly));
    if (!reader) return {};
    const TrainState state = load_train_state(*reader);
    if (!state.wire.empty() || state.world_size == 1) return state.wire;
    // Programs that knew no `auto` kept what the configuration says.
    const Value config = parse_json(state.config_json, "the checkpoint's configuration", ErrorKind::kCheckpoint);
    const Value* comm = config.find("comm");
    const Value* wire = comm == nullptr ? nullptr : comm->find("wire");
    return wire != nullptr && wire->as_string() != "auto" ? wire->as_string() : "";
  } catch (const Error&) {
    return {};
  }
}

bool on_one_host(const WirePlace& place) {
  return std::set<std::string>(place.hosts.begin(), place.hosts.end()).size() <= 1;
}

// Ranks that compute as plans think of it.
RankPlace planned_place(const World& world, const WirePlace& place) {
  const auto hosts = static_cast<int>(std::set<std::string>(place.hosts.begin(), place.hosts.end()).size());
  RankPlace planned{.cuda = place.mode.is_cuda(),
                    .ranks = world.size(),
                    .nodes = hosts > 0 && world.size() % hosts == 0 ? hosts : 1,
                    .threads = place.threads};
  if (planned.cuda) {
    planned.rates = gpu_rates(cuda_device_info(place.mode.device.index()).name);
  } else {
    planned.rates = cpu_rates(/*threads=*/1);
    planned.cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  }
  return planned;
}

// Rank 0's device stands for all.
dist::WireQuestion question_of_all(World& world, const RunConfig& config, const WirePlace& place, double& updates) {
  const StepTime step = expected_step(config, planned_place(world, place), place.windows_per_epoch);
  dist::WireQuestion question = wire_question(config.comm, step, place.mode.is_cuda(), on_one_host(place));
  std::vector<double> words = {question.compute_s, question.hidden_s, step.updates};
  world.comm().broadcast(view(std::span(words)), /*root=*/0);
  question.compute_s = words[0];
  question.hidden_s = words[1];
  updates = words[2];
  return question;
}

std::string milliseconds(double seconds) { return fixed(seconds * 1e3, seconds < 0.01 ? 2 : 1); }

SettledWire measured_wire(World& world, const RunConfig& config, const WirePlace& place, std::int64_t elems) {
  dist::Communicator& group = place.grid.data();
  const kernels::Exec exec{.device = place.mode.is_cuda() ? Device::kCuda : Device::kCpu};
  std::optional<dist::NodeGroups> nodes;
  std::string no_nodes;
  const int places = exchange_places(config.comm, place.grid, place.hosts, no_nodes);
  if (places > 0 && places < group.size()) nodes = dist::make_node_groups(group, places);
  const std::vector<WireFormatName> names = wire_candidates(config.comm);
  std::vector<dist::GradWire> wires;
  for (const WireFormatName name : names) {
    CommConfig comm = config.comm;
    comm.wire = name;
    wires.push_back(wire_of(comm));
  }
  const std::int64_t asked = std::min(elems, kTrialElems);
  const dist::WireTrial trial = dist::try_wires(group, nodes ? &*nodes : nullptr, exec, wires, asked);
  double updates = 0.0;
  dist::WireQuestion question = question_of_all(world, config, place, updates);
  const double exchanges = updates * static_cast<double>(elems) / static_cast<double>(trial.elems);
  std::vector<std::string> times;
  for (std::size_t i = 0; i < wires.size(); ++i) {
    question.times.push_back({.format = wires[i].format, .seconds = trial.seconds[i] * exchanges});
    times.push_back(fmt::format("{} ms as {}", milliseconds(question.times[i].seconds), enum_name(names[i])));
  }
  const dist::WireFormat format = dist::choose_wire(question);
  const auto chosen = static_cast<std::size_t>(
      std::find_if(wires.begin(), wires.end(), [&](const dist::GradWire& wire) { return wire.format == format; }) -
      wires.begin());
  std::string links = fmt::format("{}B/s a rank", short_count(trial.rate(group.size())));
  if (nodes) {
    // Of each level by itself, the slowest group.
    const auto rate = [&](dist::Communicator& level) {
      std::vector<double> slowest = {
          dist::try_wires(level, nullptr, exec, std::span(wires).first(1), trial.elems).rate(level.size())};
      group.all_reduce(view(std::span(slowest)), dist::ReduceOp::kMin);
      return slowest[0];
    };
    links += ", of which";
    if (nodes->places() > 1) links += fmt::format(" {}B/s inside a node and", short_count(rate(*nodes->inside)));
    links += fmt::format(" {}B/s between nodes", short_count(rate(*nodes->across)));
  }
  return {.wire = names[chosen],
          .why = fmt::format(
              "comm.wire is auto: {}. By {} exchanged in fp32 ({}) and otherwise, a step's gradients take {}, beside "
              "{} ms of computing, as plans have it; another wire than fp32 is taken where it makes a step {} times as "
              "fast. Checkpoints keep the choice; set comm.wire to choose otherwise",
              enum_name(names[chosen]), byte_size(4 * trial.elems), links, fmt::join(times, ", "),
              milliseconds(question.compute_s), question.worth())};
}

}  // namespace

SettledWire settle_wire(World& world, const RunConfig& config, const WirePlace& place) {
  if (config.comm.wire != WireFormatName::kAuto) return {.wire = config.comm.wire, .why = {}};
  const auto exactly = [](const char* reason) {
    return SettledWire{.wire = WireFormatName::kFp32, .why = fmt::format("comm.wire is auto: fp32, for {}", reason)};
  };
  const std::string stored =
      dist::broadcast_string(world.comm(), world.is_root() ? stored_wire(config.run) : std::string());
  if (const auto kept = enum_value<WireFormatName>(stored); kept && *kept != WireFormatName::kAuto)
    return {.wire = *kept,
            .why = fmt::format("comm.wire is auto: {}, as the checkpoint has it; set comm.wire to choose otherwise",
                               stored)};
  if (place.grid.data_size() == 1) return {.wire = WireFormatName::kAuto, .why = {}};
  if (place.grid.stages() > 1) return exactly("the model is cut into stages");
  const std::int64_t elems = count_parameters(config.model, config.lora, config.quant).in_a_step();
  if (elems < kFewElems) return exactly("these are few gradients");
  if (!place.mode.is_cuda() && on_one_host(place) && config.comm.ranks_per_node == 0)
    return exactly("ranks on the CPUs of one host share its memory");
  return measured_wire(world, config, place, elems);
}

}  // namespace qat::launch

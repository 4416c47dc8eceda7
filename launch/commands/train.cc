#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <utility>

#include "dist/comm/agree.h"
#include "dist/grad/tree_accumulator.h"
#include "kernels/common/cuda_device.h"
#include "launch/command.h"
#include "launch/failure.h"
#include "launch/settle_wire.h"
#include "launch/setup_run.h"
#include "launch/signals.h"
#include "launch/singletons.h"
#include "launch/stages.h"
#include "launch/start_blocks.h"
#include "launch/task_data.h"
#include "launch/terminal.h"
#include "launch/world.h"
#include "src/base/file.h"
#include "src/base/run_lock.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/shared_folder.h"
#include "src/export/hf_model.h"
#include "src/report/numbers.h"
#include "src/train/model_report.h"
#include "src/train/on_root.h"
#include "src/train/parameter_memory.h"
#include "src/train/product_peak.h"
#include "src/train/run_state.h"
#include "src/train/trainer.h"
#include "src/train/wire_of.h"

namespace qat::launch {
namespace {

struct TrainArguments {
  std::string config;
  std::vector<std::string> sets;
  bool print_config = false;
  bool strict = false;
  bool only_range_test = false;
};

TrainerOptions trainer_options(const AgreedConfig& agreed, int threads, bool strict) {
  const RunConfig& config = agreed.loaded.config;
  return {.run = config.run,
          .train = config.train,
          .distill = config.distill,
          .quant = config.quant,
          .precision = config.precision,
          .range_test = config.range_test,
          .lr = config.lr,
          .data = config.data,
          .optim = config.optim,
          .eval = config.eval,
          .checkpoint = config.checkpoint,
          .comm = config.comm,
          .watchdog = config.watchdog,
          .report = config.report,
          .config_json = agreed.json,
          .config_hash = agreed.hash,
          .threads = threads,
          .schedule = config.parallel.schedule,
          .transfer = config.parallel.transfer,
          .timeline_step = config.parallel.timeline_step,
          .strict = strict};
}

// Folder and lock: rank 0's work, and everybody's failure.
std::unique_ptr<RunLock> open_run_folder(World& world, const AgreedConfig& agreed) {
  std::unique_ptr<RunLock> lock;
  on_root(world.comm(), "opening the run folder", [&] {
    const std::filesystem::path dir = agreed.loaded.config.run.dir;
    create_directories_checked(dir, "run.dir");
    lock = std::make_unique<RunLock>(dir, World::job_id(), World::job_restarts());
  });
  return lock;
}

// Before the model is made.
void say_what_starts(World& world, const AgreedConfig& agreed, const TrainingData& train, const HeldOutData& val,
                     const std::vector<std::string>& doubts, const ComputeMode& mode, int threads, int hosts,
                     Logger& log) {
  const RunConfig& config = agreed.loaded.config;
  log.info(start_block("Options", changed_options(agreed.loaded)));
  for (const std::string& warning : agreed.loaded.warnings) log.warning(warning);
  std::vector<std::string> system = {fmt::format("qat_dist {}; {} rank{} ({}) on {} host{}, {} thread{} each",
                                                 QAT_VERSION, world.size(), world.size() == 1 ? "" : "s",
                                                 world.comm().backend(), hosts, hosts == 1 ? "" : "s", threads,
                                                 threads == 1 ? "" : "s")};
  if (mode.is_cuda()) {
    const CudaDeviceInfo gpu = cuda_device_info(mode.device.index());
    system.push_back(
        fmt::format("{} on rank 0, {} GiB; activations in {}", gpu.name, gpu.total_bytes >> 30, floats_of(mode)));
  }
  system.push_back("run folder " + config.run.dir);
  if (config.watchdog.limit_seconds == 0.0)
    system.emplace_back("the watchdog is off (watchdog.limit_seconds): a rank that hangs or dies may go unnoticed");
  log.info(start_block("System", system));
  log.info(start_block("Data", {describe(train, val)}));
  for (const std::string& doubt : doubts) log.warning(doubt);
}

void say_layout(const AgreedConfig& agreed, const Stages& stages, const Gpt2& model, Logger& log) {
  const RunConfig& config = agreed.loaded.config;
  const int replicas = stages.grid().data_size();
  const ParameterStore& store = model.whole().parameters();
  std::vector<std::string> lines = {
      fmt::format("GPT-2 {} layers x {} wide, vocabulary {}: {} parameters, {} of them trained", config.model.n_layer,
                  config.model.n_embd, config.model.vocab_size, store.trainable_elems() + store.frozen_elems(),
                  store.trainable_elems())};
  if (stages.grid().stages() > 1)
    lines.push_back(fmt::format("{} replica{} of {} stages, {}", replicas, replicas == 1 ? "" : "s",
                                stages.grid().stages(), enum_name(config.parallel.schedule)));
  for (const std::string& line : stages.describe()) lines.push_back(line);
  lines.push_back(describe(
      parameter_memory(model, config.quant, replicas,
                       widths_at_once(config.train.recipe, config.precision, config.quant.widths, config.model.n_layer),
                       sends_beside(config.comm, model.mode().is_cuda(), stages.grid().stages()))));
  if (config.train.accumulate == Accumulate::kRunning)
    lines.emplace_back(
        "train.accumulate is running: each rank adds up its passes' gradients one after the other, so the run's bits "
        "depend on the number of ranks");
  else if (!wire_of(config.comm).is_exact())
    lines.push_back(
        fmt::format("comm.wire is {}: the run's bits depend on the number of ranks", enum_name(config.comm.wire)));
  else if (!std::has_single_bit(static_cast<unsigned>(replicas)))
    lines.push_back(
        fmt::format("sums over {0} {4} have the same bits on {1}, {2}, {3}, ... {4}; on other numbers of {4} "
                    "this run would agree to rounding only",
                    replicas, dist::odd_part(replicas), 2 * dist::odd_part(replicas), 4 * dist::odd_part(replicas),
                    stages.grid().stages() == 1 ? "ranks" : "replicas"));
  for (const std::string& line : product_paths(model.whole(), config.quant, config.precision)) lines.push_back(line);
  log.info(start_block("Layout", lines));
}

// The base's parameters from a folder of transformers (rank 0's `stored`); adapters stay as they are in a new model.
void load_hf_model(World& world, const dist::Grid& grid, const Gpt2Config& config, std::optional<HfModel>& stored,
                   Gpt2& model) {
  std::map<std::string, const Gpt2Tensor*> tensors;
  on_root(world.comm(), "comparing model.init_from with the model", [&] {
    if (const auto lines = model_differences(stored->config(), config); !lines.empty())
      throw Error(
          ErrorKind::kCheckpoint,
          fmt::format("model.init_from, {}, is of another model than the one asked for:\n  {}\n  set these keys "
                      "as they are there",
                      stored->folder().string(), fmt::join(lines, "\n  ")));
    for (const Gpt2Tensor& tensor : stored->tensors())
      if (tensor.name != kLmHead || !config.answers_questions()) tensors.emplace(tensor.name, &tensor);
    const auto known = [&](const ParameterInfo& info) {
      const auto found = tensors.find(info.name);
      return found != tensors.end() && found->second->shape == info.shape;
    };
    const auto& infos = model.whole().parameters().infos();
    QAT_CHECK(std::cmp_equal(std::count_if(infos.begin(), infos.end(), known), tensors.size()),
              "every tensor of a GPT-2 is a parameter of the model");
  });
  // Every width's own norms start from the only ones that are there.
  const auto found = [&](const ParameterInfo& info) {
    const auto own = tensors.find(info.name);
    return own != tensors.end() ? own : tensors.find(name_without_width(info.name).value_or(""));
  };
  const ParameterSource source{.has = [&](const ParameterInfo& info) { return found(info) != tensors.end(); },
                               .read = [&](const ParameterInfo& info, std::int64_t first,
                                           std::span<float> out) { stored->read(*found(info)->second, first, out); }};
  load_parameters(world.is_root() ? &source : nullptr, model, grid);
  on_root(world.comm(), "reading model.init_from", [&] { stored->require_unchanged(); });
}

// Initial parameters: random, those of another run's checkpoint, or of a model that transformers has written.
void initialize(World& world, const dist::Grid& grid, const AgreedConfig& agreed, bool strict, Gpt2& model,
                Logger& log) {
  const Gpt2Config& config = agreed.loaded.config.model;
  model.init_random(agreed.loaded.config.run.seed);
  if (config.init != ModelInit::kCheckpoint) return;
  std::unique_ptr<CheckpointReader> reader;
  std::optional<HfModel> stored;
  const auto warn = [&](const std::string& text) { log.warning("model.init_from: " + text); };
  std::vector<std::int32_t> is_checkpoint = {1};
  on_root(world.comm(), "reading model.init_from", [&] {
    if (is_hf_model(config.init_from)) {
      stored.emplace(config.init_from);
      is_checkpoint[0] = 0;
      for (const std::string& note : stored->notes()) warn(note);
    } else {
      reader = std::make_unique<CheckpointReader>(open_checkpoint(config.init_from, warn, {.strict = strict}));
    }
  });
  world.comm().broadcast(view(std::span(is_checkpoint)), /*root=*/0);
  if (is_checkpoint[0] == 0) {
    load_hf_model(world, grid, config, stored, model);
    if (stored) log.info("initial parameters from " + stored->folder().string());
    return;
  }
  for (const std::string& note : load_model(reader.get(), model, grid, LoadFor::kInitialValues, agreed.json))
    warn(note);
  if (reader) log.info("initial parameters from " + reader->info().folder.string());
}

// unsaved: why the checkpoint of this stop could not be written; empty: it was, or there was nothing to save.
std::string stopped_text(int signal, const std::string& unsaved, const dist::ProgressBoard& board) {
  const std::int64_t steps = board.read().steps;
  const std::string newest = board.checkpoint();
  std::string checkpoint, next = "go on";
  if (!unsaved.empty()) {
    checkpoint = newest.empty() ? " without a checkpoint" : fmt::format("; the newest checkpoint is {}", newest);
    if (newest.empty()) next = "begin anew";
  } else if (!newest.empty()) {
    checkpoint = " with a checkpoint";
  }
  return fmt::format("stopped by {} {}{}; start the same command again to {}\n", signal_name(signal),
                     steps > 0 ? fmt::format("after step {}", steps) : "before the first step", checkpoint, next);
}

int stopped(int signal, const std::string& unsaved, World& world, RunStatus& status) {
  if (world.is_root()) {
    print(stopped_text(signal, unsaved, world.board()));
    status.finish("stopped", exit_code_of_signal(signal));
  }
  return exit_code_of_signal(signal);
}

// What `qat_dist prt` needs of a configuration that a run may do without.
void check_range_test(const RunConfig& config) {
  if (!config.quant.maps.empty())
    throw Error(ErrorKind::kConfig,
                "quant.maps has maps: the range test tries the widths of quant.widths; leave quant.maps out");
  if (config.quant.widths == std::vector<int>{BitWidth::kFull})
    throw Error(ErrorKind::kConfig, "quant.widths = [32]: the range test needs a width below 32 to try");
  if (config.model.answers_questions() && config.range_test.form == RangeTestForm::kAccuracy)
    throw Error(ErrorKind::kConfig,
                "range_test.form = \"accuracy\": must be \"plateau\" for a model that answers questions (model.task)");
}

int measure_range(Trainer& trainer, const RunConfig& config, World& world, RunStatus& status) {
  const RangeTestRun run = trainer.run_range_test();
  if (!run.result) return stopped(run.signal, /*unsaved=*/"", world, status);
  if (!world.is_root()) return 0;
  print(fmt::format("{}results: {}\n", range_test_text(*run.result),
                    (std::filesystem::path(config.run.dir) / "range_test.json").string()));
  status.finish("finished");
  status.write_report();
  return 0;
}

int train(World& world, const TrainArguments& arguments, int pmix_rank, const std::atomic<int>& signal,
          RunStatus& status) {
  const std::optional<std::string> file =
      arguments.config.empty() ? std::nullopt : std::optional<std::string>(arguments.config);
  AgreedConfig agreed = load_agreed_config(world, file, arguments.sets);
  const RunConfig& config = agreed.loaded.config;
  if (arguments.print_config) {
    if (world.is_root()) fmt::print("{}", print_config(config, agreed.loaded.origins));
    return 0;
  }
  if (arguments.only_range_test) dist::on_every_rank(world.comm(), "range test", [&] { check_range_test(config); });
  refuse_singletons(world.size(), pmix_rank);
  status.start_watchdog(world, config.watchdog);
  const ComputeMode mode = world.use_device(config.compute);
  // A GPU takes one pass at a time, and so does a stage.
  const bool one_pass = mode.is_cuda() || config.parallel.pipeline > 1;
  const int threads = world.use_threads(one_pass ? 1 : config.parallel.threads_per_rank);
  const Stages stages(world, config, mode);
  const TrainingData train_data = open_training_data(world, config);
  const HeldOutData val_data = open_held_out(world, config);

  TrainerOptions options = trainer_options(agreed, threads, arguments.strict);
  std::vector<std::string> doubts;
  dist::on_every_rank(world.comm(), "data and schedules",
                      [&] { doubts = check_data(options, config.model, train_data, val_data); });

  const std::unique_ptr<RunLock> lock = open_run_folder(world, agreed);
  const std::vector<std::string> hosts = dist::gather_strings(world.comm(), world.session().host_name());
  require_shared_folder(config.run.dir, "run.dir", hosts, world.comm());
  status.open(config.run.dir, lock.get());
  const bool terminal = output_is_terminal();
  std::optional<Progress> progress;
  if (world.is_root())
    progress.emplace(std::cout, ProgressOptions{.terminal = terminal, .total_steps = config.train.steps});
  LoggerOptions log_options{.dir = std::filesystem::path(config.run.dir) / "logs", .rank = world.rank()};
  if (progress) log_options.console = [&](std::string_view line) { progress->message(line); };
  Logger log(log_options);
  if (lock && !lock->replaced().host.empty()) log.warning("took over the lock of a process that is gone");
  if (const std::string warning = world.size() > 1 ? stop_warning() : ""; !warning.empty()) log.warning(warning);

  say_what_starts(world, agreed, train_data, val_data, doubts, mode, threads,
                  static_cast<int>(std::set<std::string>(hosts.begin(), hosts.end()).size()), log);
  // From here on `config` has the wire that the run has; the text that checkpoints keep stays what it was given.
  const SettledWire wire = settle_wire(world, config,
                                       {.grid = stages.grid(),
                                        .mode = mode,
                                        .threads = threads,
                                        .hosts = hosts,
                                        .windows_per_epoch = train_data.samples->windows_per_epoch()});
  options.comm.wire = agreed.loaded.config.comm.wire = wire.wire;
  if (!wire.why.empty()) log.info(wire.why);
  const Purpose purpose = arguments.only_range_test ? Purpose::kRangeTest : Purpose::kTraining;
  status.set_memory(look_at_memory(world, config, purpose, mode.is_cuda(), threads, &log, stages.parts()));
  std::optional<Gpt2> built;
  on_every_rank(
      world, "model",
      [&] {
        built.emplace(config.model, config.lora, config.quant, StepRunner::padding(stages.grid().data_size()), mode,
                      config.compute.recompute, stages.range(),
                      RankOf{.rank = stages.grid().data_rank(), .ranks = stages.grid().data_size()});
        return 0;
      },
      status);
  Gpt2& model = *built;
  initialize(world, stages.grid(), agreed, arguments.strict, model, log);
  say_layout(agreed, stages, model, log);
  double peak = 0.0;
  if (world.is_root() && mode.is_cuda()) {
    peak = measured_product_peak(mode);
    log.info(fmt::format("products of int8 codes on rank 0's GPU: {}op/s, the peak of the progress line",
                         short_count(peak)));
  }
  const TrainerParts parts{.model = model,
                           .samples = *train_data.samples,
                           .held_out = *val_data.set,
                           .grid = stages.grid(),
                           .log = log,
                           .progress = progress ? &*progress : nullptr,
                           .product_peak = peak,
                           .signal = &signal,
                           .on_progress =
                               [&](std::int64_t steps, const std::string& checkpoint) {
                                 world.board().set_steps(steps);
                                 world.board().set_checkpoint(checkpoint);
                                 if (world.watchdog() == nullptr) return;
                                 for (const std::string& line : world.watchdog()->take_warnings()) log.warning(line);
                               },
                           .board = &world.board(),
                           .hosts = hosts};
  std::optional<Trainer> trainer;
  on_every_rank(
      world, "training",
      [&] {
        trainer.emplace(options, parts);
        return 0;
      },
      status);
  if (arguments.only_range_test) return measure_range(*trainer, config, world, status);
  const TrainResult result = trainer->run();
  status.memory()->report_peak(world, log);
  if (progress) progress->finish();
  if (!result.finished) {
    const int code = stopped(result.signal, result.unsaved, world, status);
    if (world.is_root()) status.write_report();
    return code;
  }
  if (world.is_root()) {
    print(fmt::format("{}\nresults: {}\n", result.table, config.run.dir));
    status.finish("finished");
    status.write_report();
  }
  return 0;
}

// A run, or its range test alone.
Run add_run(CLI::App& app, bool only_range_test) {
  auto arguments = std::make_shared<TrainArguments>();
  arguments->only_range_test = only_range_test;
  app.add_option("-c,--config", arguments->config, "JSON configuration; without it every key has its default");
  app.add_option("--set", arguments->sets, "override: section.key=value, as often as needed")->take_all();
  app.add_flag("--strict", arguments->strict,
               "a damaged newest checkpoint of a run is an error: go on from no older one");
  app.add_flag("--print-config", arguments->print_config, "print every value with its origin, and stop");
  return [arguments](Invocation invocation) {
    // From here on a signal is a wish to stop, also while MPI starts.
    const std::atomic<int>& signal = watch_signals();
    const int pmix_rank = launcher_rank();
    RunStatus status;
    World world(invocation.argc, invocation.argv);
    return run_guarded(world, status, [&] { return train(world, *arguments, pmix_rank, signal, status); });
  };
}

}  // namespace

Run add_train(CLI::App& app) { return add_run(app, /*only_range_test=*/false); }

Run add_range_test(CLI::App& app) { return add_run(app, /*only_range_test=*/true); }

}  // namespace qat::launch

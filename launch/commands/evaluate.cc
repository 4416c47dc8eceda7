#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdio>
#include <memory>

#include "launch/command.h"
#include "launch/failure.h"
#include "launch/setup_run.h"
#include "launch/world.h"
#include "src/checkpoint/reader.h"
#include "src/data/split_check.h"
#include "src/train/calibrator.h"
#include "src/train/model_report.h"
#include "src/train/on_root.h"
#include "src/train/run_state.h"
#include "src/train/step_runner.h"

namespace qat::launch {
namespace {

struct EvalArguments {
  std::string checkpoint;
  std::vector<int> bits;
  std::vector<std::string> sets;
  std::string output;
};

// A width without calibrated ranges cannot be evaluated from the checkpoint alone.
void require_calibrated(Gpt2& model, const QuantConfig& quant, const std::vector<int>& widths) {
  for (const int bits : widths)
    if (needs_calibration(model, evaluation_precision(model, quant, bits)))
      throw dist::AgreedError(
          ErrorKind::kConfig,
          fmt::format("--bits {}: the checkpoint has no calibrated activation ranges at this width; "
                      "choose widths that the run trained or evaluated",
                      bits));
}

// The held-out tokens must be enough, and of the kind that the model was trained on; where the run's own are meant,
// what has changed in them since is said.
void check_held_out(World& world, const LoadResult& loaded, const std::string& data_json, const TokenSource& tokens) {
  std::vector<std::string> doubts;
  dist::on_every_rank(world.comm(), "held-out tokens", [&] {
    (void)tokens_to_read(tokens, loaded.config.eval);
    if (data_json.empty()) return;  // a checkpoint of an older program
    const DataIdentity trained = parse_data_identity(data_json, "the checkpoint's list of token files");
    const SplitIdentity now = identity_of(tokens);
    doubts = check_same_ids(loaded.config.data, trained.train, now);
    const auto origin = loaded.origins.find("data.val");
    const bool given = origin != loaded.origins.end() && origin->second.kind == Origin::Kind::kSet;
    if (const std::string change = held_out_change(trained.val, now); !given && !change.empty())
      doubts.push_back(change);
  });
  if (!world.is_root()) return;
  for (const std::string& doubt : doubts) fmt::print(stderr, "warning: {}\n", doubt);
}

int evaluate(World& world, const EvalArguments& arguments) {
  std::unique_ptr<CheckpointReader> reader;
  on_root(world.comm(), "opening the checkpoint", [&] {
    reader = std::make_unique<CheckpointReader>(CheckpointReader::open(resolve_checkpoint(arguments.checkpoint)));
  });
  const TrainState state = load_state(reader.get(), world.comm());
  std::vector<std::string> sets = arguments.sets;
  // How the run was split over ranks is no matter here.
  for (const char* free : {"parallel.data=0", "parallel.pipeline=1", "model.init=random"}) sets.emplace_back(free);
  sets.push_back(fmt::format("train.batch_size={}", world.size()));
  sets.emplace_back("train.micro_batch_size=1");
  if (!arguments.bits.empty()) sets.push_back(fmt::format("eval.bits=[{}]", fmt::join(arguments.bits, ",")));
  const AgreedConfig agreed = agree_on_config_text(world, state.config_json, "the checkpoint's configuration", sets);
  const RunConfig& config = agreed.loaded.config;
  const ComputeMode mode = world.use_device(config.compute);
  const int threads = world.use_threads(mode.is_cuda() ? 1 : config.parallel.threads_per_rank);

  const TokenSource tokens = open_agreed_tokens(world, config.data.val, Split::kVal, config.model.vocab_size);
  check_held_out(world, agreed.loaded, state.data_json, tokens);
  Gpt2 model(config.model, config.lora, config.quant, StepRunner::padding(1), mode);
  load_model(reader.get(), model, world.comm());
  const std::vector<int> widths = evaluation_widths(config.eval, config.quant);
  require_calibrated(model, config.quant, widths);
  dist::StopPoll never(world.comm());
  const auto scores = score_widths(model, tokens, widths, config.quant, config.eval, config.data.sequence_length,
                                   threads, world.comm(), never);
  on_root(world.comm(), "writing the report", [&] {
    FinalReport report{.title = "Held-out perplexity by bit width"};
    report.widths = width_results(model, config.lora, config.quant, *scores, config.data.sequence_length);
    report.summary = {{"checkpoint", reader->info().folder.string()}, {"step", std::to_string(state.step)}};
    report.details = Value::object({{"checkpoint", reader->info().folder.string()}, {"step", state.step}});
    const std::string table =
        arguments.output.empty() ? width_table(report.widths).ascii() : write_final_report(arguments.output, report);
    fmt::print("{}", table);
  });
  return 0;
}

}  // namespace

Run add_evaluate(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  app.add_option("--checkpoint", arguments->checkpoint, "checkpoint folder, or a run folder: its newest checkpoint")
      ->required();
  app.add_option("--bits", arguments->bits, "widths, e.g. 2,4,8,32; default: those of the run")->delimiter(',');
  app.add_option("--set", arguments->sets, "override, e.g. data.val='[\"mine_val.bin\"]'")->take_all();
  app.add_option("-o,--output", arguments->output, "folder for report.md and report.json");
  return [arguments](Invocation invocation) {
    World world(invocation.argc, invocation.argv);
    const RunStatus status;
    return run_guarded(world, status, [&] { return evaluate(world, *arguments); });
  };
}

}  // namespace qat::launch

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "dist/comm/agree.h"
#include "launch/asked_map.h"
#include "launch/command.h"
#include "launch/eval_answers.h"
#include "launch/eval_extras.h"
#include "launch/eval_robustness.h"
#include "launch/failure.h"
#include "launch/number_checks.h"
#include "launch/output_file.h"
#include "launch/setup_run.h"
#include "launch/task_data.h"
#include "launch/terminal.h"
#include "launch/world.h"
#include "src/base/file.h"
#include "src/checkpoint/reader.h"
#include "src/data/split_check.h"
#include "src/eval/perplexity.h"
#include "src/export/hf_model.h"
#include "src/report/evaluation_page.h"
#include "src/report/run_history.h"
#include "src/text/tokenizer.h"
#include "src/train/calibrator.h"
#include "src/train/model_report.h"
#include "src/train/on_root.h"
#include "src/train/range_state.h"
#include "src/train/run_state.h"
#include "src/train/step_runner.h"

namespace qat::launch {
namespace {

struct EvalArguments {
  std::string checkpoint;
  std::vector<int> bits;
  std::vector<std::string> bitmaps, config_names;
  std::vector<std::string> sets;
  std::string output;
  bool strict = false;
  ExtraOptions extras;
  AnswerOptions answers;
  RobustnessAsk robustness;
};

// Such a folder says nothing of widths, adapters and data: a checkpoint does.
void refuse_hf_model(const std::string& path) {
  if (is_hf_model(path))
    throw Error(ErrorKind::kConfig,
                fmt::format("--checkpoint is \"{}\", a model of transformers: `qat_dist import` makes "
                            "a checkpoint of it",
                            path));
}

// --bitmap's and --config-name's.
std::vector<std::string> maps_of(const EvalArguments& arguments) {
  for (const std::string& name : arguments.config_names)
    if (!is_named_configuration(name))
      throw Error(ErrorKind::kConfig, fmt::format("--config-name is \"{}\": must be one of {}; other maps of widths "
                                                  "are --bitmap's",
                                                  name, named_configurations()));
  std::vector<std::string> maps = arguments.bitmaps;
  maps.insert(maps.end(), arguments.config_names.begin(), arguments.config_names.end());
  return maps;
}

// The checkpoint's configuration with the user's changes, whatever number of ranks is here.
AgreedConfig evaluation_config(World& world, const TrainState& state, const EvalArguments& arguments) {
  std::vector<std::string> sets = arguments.sets;
  if (const std::vector<std::string> maps = maps_of(arguments); !arguments.bits.empty() || !maps.empty()) {
    sets.push_back(fmt::format("eval.bits=[{}]", fmt::join(arguments.bits, ",")));
    sets.push_back("eval.maps=" + to_json(Value::array(maps)));
  }
  return agree_on_stored_config(world, state.config_json, std::move(sets));
}

// Calibrates `widths` as the run would have.
void calibrate_widths(World& world, const RunConfig& config, const Gpt2& model, const std::vector<EvaluatedAt>& widths,
                      std::int64_t steps, EvaluationRanges& ranges) {
  TrainingData training;
  try {
    training = open_training_data(world, config);
  } catch (const Error& error) {  // the same on all ranks
    std::vector<std::string> names;
    for (const EvaluatedAt& at : widths) names.push_back(describe(at));
    throw dist::AgreedError(
        error.kind(),
        fmt::format("the checkpoint has no activation ranges for {}, and the training data that they would be "
                    "calibrated on is not to be had. Name it by --set data.train=..., or choose other widths: {}",
                    fmt::join(names, ", "), error.what()));
  }
  dist::StopPoll never(world.comm());
  for (const EvaluatedAt& at : widths) {
    const PrecisionMap precision = evaluation_precision(model, config.quant, at);
    const auto layers = layers_to_calibrate(model, precision, steps, config.quant.recalibrate_every);
    ranges[at] = calibrate(model, precision, layers, *training.samples, world.comm(), never,
                           calibrator_options(config.quant, config.run.seed, config.train.micro_batch_size,
                                              config.data.sequence_length, &world.board()))
                     ->ranges;
  }
}

// The calibrated ranges that the evaluation of `widths` has of its own: those that the checkpoint has, and for widths
// that it has none of, those that the run would have taken.
EvaluationRanges own_ranges(World& world, const CheckpointReader* reader, const AgreedConfig& agreed, const Gpt2& model,
                            const std::vector<EvaluatedAt>& widths, std::int64_t steps) {
  const RunConfig& config = agreed.loaded.config;
  EvaluationRanges stored, ranges;
  std::vector<std::int32_t> fit = {0};
  on_root(world.comm(), "reading calibrated ranges",
          [&] { fit[0] = evaluation_ranges_fit(*reader, agreed.json) ? 1 : 0; });
  world.comm().broadcast(view(std::span(fit)), /*root=*/0);
  if (fit[0] != 0) stored = load_evaluation_ranges(reader, model, world.comm(), widths);
  std::vector<EvaluatedAt> missing;
  for (const EvaluatedAt& at : widths) {
    const auto layers = layers_to_calibrate(model, evaluation_precision(model, config.quant, at), steps,
                                            config.quant.recalibrate_every);
    for (const std::int64_t layer : layers) {
      const auto found = stored[at].find(layer);
      if (found != stored[at].end()) {
        ranges[at][layer] = found->second;
      } else if (missing.empty() || missing.back() != at) {
        missing.push_back(at);
      }
    }
  }
  if (!missing.empty()) calibrate_widths(world, config, model, missing, steps, ranges);
  return ranges;
}

void print_report(const CheckpointReader& reader, const TrainState& state, const std::string& title,
                  const std::vector<WidthResult>& widths, const ExtraEvaluations& extras,
                  const AnswerEvaluation& answers, const std::string& output) {
  const std::string folder = reader.info().folder.string();
  FinalReport report{.title = title};
  report.widths = widths;
  report.summary = {{"checkpoint", folder}, {"step", std::to_string(state.step)}};
  report.details = Value::object({{"checkpoint", folder}, {"step", state.step}});
  extras.report(report);
  answers.report(report);
  fmt::print("{}", output.empty() ? to_text(report) : write_final_report(output, report));
  fmt::print("{}", answers.table());
  if (!output.empty()) {
    write_file_atomic(std::filesystem::path(output) / "report.html", evaluation_page(report));
    answers.write_predictions(output);
  }
  fmt::print("{}", extras.write_diagnosis(output, report.widths));
}

bool given_by_set(const LoadResult& loaded, const std::string& key) {
  const auto origin = loaded.origins.find(key);
  return origin != loaded.origins.end() && origin->second.kind == Origin::Kind::kSet;
}

// The held-out tokens must be enough, and of the kind that the model was trained on; where the run's own are meant,
// what has changed in them since is said.
void check_held_out(World& world, const LoadResult& loaded, const std::string& data_json, const HeldOutData& held_out) {
  std::vector<std::string> doubts;
  const bool text = held_out.tokens != nullptr;
  dist::on_every_rank(world.comm(), "held-out data", [&] {
    if (text) (void)tokens_to_read(*held_out.tokens, loaded.config.eval);
    if (data_json.empty()) {  // an imported model, or a checkpoint of an older program
      if (text && loaded.config.data.val == std::vector<std::string>{"builtin"} &&
          loaded.config.model.vocab_size != ByteTokenizer::kVocabSize)
        doubts.push_back(
            fmt::format("data.val is [\"builtin\"], text as bytes, and this model, of {} ids, may know "
                        "other tokens: name held-out files by --set data.val",
                        loaded.config.model.vocab_size));
      return;
    }
    const DataIdentity trained = parse_data_identity(data_json, "the checkpoint's list of token files");
    const SplitIdentity now = held_out.set->identity();
    if (text) doubts = check_same_ids(loaded.config.data, trained.train, now);
    const std::string change = held_out_change(trained.val, now);
    if (!given_by_set(loaded, "data.val") && !change.empty()) doubts.push_back(change);
  });
  if (!world.is_root()) return;
  for (const std::string& doubt : doubts) warn(doubt);
}

// A run's own report is not to be lost.
void prepare_output_folder(const std::filesystem::path& folder) {
  create_directories_checked(folder, "--output");
  if (has_records(folder))
    throw Error(ErrorKind::kConfig, fmt::format("--output is \"{}\", a run's folder, whose own report would be "
                                                "replaced: name another folder, such as {}",
                                                folder.string(), (folder / "eval").string()));
}

int evaluate(World& world, EvalArguments& arguments, RunStatus& status) {
  std::unique_ptr<CheckpointReader> reader;
  on_root(world.comm(), "opening the checkpoint", [&] {
    refuse_hf_model(arguments.checkpoint);
    reader =
        std::make_unique<CheckpointReader>(open_checkpoint(arguments.checkpoint, warn, {.strict = arguments.strict}));
  });
  const TrainState state = load_state(reader.get(), world.comm());
  const AgreedConfig agreed = evaluation_config(world, state, arguments);
  const RunConfig& config = agreed.loaded.config;
  on_root(world.comm(), "preparing the evaluation", [&] {
    // Before a model of another size is made, and before any work whose result could not be kept.
    (void)check_structure(*reader, agreed.json, /*parameters=*/nullptr, LoadFor::kEvaluation);
    if (given_by_set(agreed.loaded, "eval.predictions") && config.eval.predictions && arguments.output.empty())
      throw Error(ErrorKind::kConfig, "eval.predictions = true: --output must name the folder for them");
    if (arguments.robustness.asked && config.model.answers_questions())
      throw Error(ErrorKind::kConfig, "--robustness is for language models, and this one answers questions");
    if (!arguments.output.empty()) prepare_output_folder(arguments.output);
    prepare_output_file(arguments.extras.items, "--items");
  });
  status.start_watchdog(world, config.watchdog);
  const ComputeMode mode = world.use_device(config.compute);
  const int threads = world.use_threads(mode.is_cuda() ? 1 : config.parallel.threads_per_rank);

  const bool scores_held_out = !(arguments.extras.any() || arguments.answers.any()) || arguments.extras.held_out ||
                               arguments.extras.diagnose || arguments.robustness.asked ||
                               given_by_set(agreed.loaded, "data.val");
  HeldOutData held_out;
  if (scores_held_out) {
    held_out = open_held_out(world, config);
    check_held_out(world, agreed.loaded, state.data_json, held_out);
  }
  ExtraEvaluations extras(world, config, arguments.extras);
  AnswerEvaluation answers(world, config, arguments.extras.tasks.merges, arguments.answers);
  RunConfig largest = config;  // pass
  if (arguments.extras.tasks.any())
    largest.eval.batch_size = std::max(
        largest.eval.batch_size, arguments.extras.tasks.tokens_of_pass(mode.is_cuda()) / config.data.sequence_length);
  status.set_memory(look_at_memory(world, largest, Purpose::kEvaluation, mode.is_cuda(), threads, /*log=*/nullptr));
  Gpt2 model(config.model, config.lora, config.quant, StepRunner::padding(1), mode);
  for (const std::string& note : load_model(reader.get(), model, world.comm(), LoadFor::kEvaluation, agreed.json))
    warn(note);
  const std::vector<EvaluatedAt> widths = evaluation_widths(config.eval, config.quant);
  if (world.is_root())
    for (const EvaluatedAt& at : widths) warn_of_untrained(model, config.quant, at);
  const EvaluationRanges ranges = own_ranges(world, reader.get(), agreed, model, widths, state.step);
  dist::StopPoll never(world.comm());
  world.board().enter(dist::Section::kEvaluation);
  std::vector<WidthScore> scores;
  for (const EvaluatedAt& at : widths) scores.push_back({at, {}});
  if (scores_held_out)
    scores = *score_widths(model, *held_out.set, widths, config.quant, config.eval, config.data.sequence_length,
                           threads, world.comm(), never, ranges);
  extras.score(world, model, config, widths, ranges, threads, never);
  answers.score(world, model, config, widths, ranges, threads, never);
  const std::vector<RobustnessFigures> disturbed = score_robustness(world, model, config, widths, ranges, threads,
                                                                    held_out.tokens.get(), arguments.robustness, never);
  extras.diagnose_on(world, model, config, ranges, held_out.tokens.get());
  on_root(world.comm(), "writing the report", [&] {
    std::vector<WidthResult> results = width_results(model, config.quant, scores, config.data.sequence_length);
    for (WidthResult& result : results) result.wants_held_out = scores_held_out;
    for (std::size_t i = 0; i < disturbed.size(); ++i) results[i].robustness = disturbed[i];
    print_report(*reader, state, scores_held_out ? report_title(scores) : kEvaluationTitle, results, extras, answers,
                 arguments.output);
    extras.write_items();
    if (config.eval.predictions && !arguments.output.empty() && scores_held_out)
      write_predictions(arguments.output, *held_out.set, scores);
  });
  if (world.watchdog() != nullptr)
    for (const std::string& line : world.watchdog()->take_warnings()) warn(line);
  extras.throw_missing();
  answers.throw_missing();
  return 0;
}

}  // namespace

Run add_evaluate(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  app.add_option("--checkpoint", arguments->checkpoint, "checkpoint folder, or a run folder: its newest checkpoint")
      ->required();
  app.add_option("--bits", arguments->bits, "widths, e.g. 2,4,8,32; default: those of the run")
      ->delimiter(',')
      ->check(whole_from(0));
  app.add_option("--bitmap", arguments->bitmaps,
                 "widths layer by layer, e.g. 8,8,4,..., stripe8&4, 'attn=8,mlp=4,act=8,kv=8'; may be repeated")
      ->take_all();
  app.add_option("--config-name", arguments->config_names,
                 "widths of weights, activations, and keys and values: " + named_configurations() + "; may be repeated")
      ->take_all();
  app.add_option("--set", arguments->sets, "override, e.g. data.val='[\"mine_val.bin\"]'")->take_all();
  app.add_option("-o,--output", arguments->output,
                 "folder for report.md, report.json, report.html, tables.txt and tables.tex; made if it is not there");
  add_extra_options(app, arguments->extras);
  add_answer_options(app, arguments->answers);
  add_robustness_options(app, arguments->robustness);
  app.add_flag("--strict", arguments->strict, "a damaged newest checkpoint of a run is an error: take no older one");
  return [arguments](Invocation invocation) {
    RunStatus status;
    World world(invocation.argc, invocation.argv);
    return run_guarded(world, status, [&] { return evaluate(world, *arguments, status); });
  };
}

}  // namespace qat::launch

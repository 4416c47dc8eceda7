#include "launch/eval_extras.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "dist/comm/agree.h"
#include "launch/number_checks.h"
#include "launch/terminal.h"
#include "src/base/file.h"
#include "src/eval/diagnose.h"
#include "src/report/baseline_table.h"
#include "src/train/on_root.h"

namespace qat::launch {
namespace {

void add_task_options(CLI::App& app, ExtraOptions& options) {
  app.add_option("--tasks", options.tasks.files,
                 "questions with answers to choose from: files, folders, NAME=FILE; what a file is, its keys tell");
  app.add_option("--prompts", options.prompts, "how they are put: harness, as lm-evaluation-harness does, or plain")
      ->check(CLI::IsMember(enum_names<PromptStyle>()))
      ->capture_default_str();
  app.add_option("--limit", options.tasks.limit, "the first so many items of each task, or MMLU subject; 0: all")
      ->check(whole_from(0));
  app.add_option("--items", options.items, "file for every item's log-likelihoods, a JSON object a line");
  app.add_option("--pass-tokens", options.tasks.pass_tokens,
                 "tokens of a pass, with padding; 0: 65536 on a GPU, 2048 on a CPU")
      ->check(whole_from(0));
  CLI::Option* few_shot = app.add_option("--few-shot", options.tasks.few_shot,
                                         "MMLU's questions: files or a folder, .csv as published or .jsonl");
  CLI::Option* examples =
      app.add_option("--examples", options.tasks.examples, "with --few-shot: likewise, of another split (dev)");
  few_shot->needs(examples);
  examples->needs(few_shot);
  app.add_option("--shots", options.tasks.shots, "with --few-shot: examples put before a question")
      ->check(whole_from(0))
      ->capture_default_str()
      ->needs(few_shot);
}

void add_speed_options(CLI::App& app, ExtraOptions& options) {
  CLI::Option* speed =
      app.add_flag("--speed", options.speed, "also measure tokens/s and milliseconds a pass, on rank 0");
  app.add_option("--speed-batch", options.passes.batch, "with --speed: sequences of a pass")
      ->check(whole_from(1))
      ->capture_default_str()
      ->needs(speed);
  app.add_option("--speed-length", options.passes.length, "with --speed: tokens of each; 0: data.sequence_length")
      ->check(whole_from(0))
      ->capture_default_str()
      ->needs(speed);
  app.add_option("--speed-passes", options.passes.passes, "with --speed: passes that are timed, after 5 that are not")
      ->check(whole_from(1))
      ->capture_default_str()
      ->needs(speed);
  app.add_flag("--speed-layers", options.speed_layers, "with --speed: also the time of each layer, in 5 passes more")
      ->needs(speed);
  app.add_option("--baseline", options.baseline,
                 "width or map, by the name of its row, that the others are compared with; default: 32, or the widest");
  app.add_flag("--insights", options.insights, "say what stands out, by fixed thresholds");
  CLI::Option* diagnose = app.add_flag("--diagnose", options.diagnose,
                                       "also say whether logits and adapters look healthy, by fixed thresholds");
  app.add_option("--reference", options.reference,
                 "with --diagnose: a checkpoint or run whose parameters the model's are compared with")
      ->needs(diagnose);
}

// Keys and values of one sequence as long as the model reads.
std::int64_t kv_bytes(const Gpt2& model, const PrecisionMap& precision) {
  const Gpt2Config& config = model.config();
  std::int64_t bytes = 0;
  for (std::int64_t block = 0; block < config.n_layer; ++block)
    bytes += kv_cache_bytes(/*layers=*/1, config.n_embd, config.n_positions, /*batch=*/1, precision.kv(block).bits());
  return bytes;
}

// What single options' rules do not say.
void check_together(const CLI::App& app, const ExtraOptions& options) {
  if (options.texts.tokens == 1)
    throw CLI::ValidationError("--text-tokens", "must be 0, or at least 2: the first token has nothing before it");
  for (const char* option : {"--prompts", "--limit", "--items", "--pass-tokens"})
    if (app.count(option) > 0 && !options.tasks.any())
      throw CLI::ValidationError(option, "needs --tasks or --few-shot");
}

void add_text_options(CLI::App& app, ExtraOptions& options) {
  CLI::Option* files =
      app.add_option("--text", options.texts.files,
                     "texts, or tokens (.bin), each scored by itself: files, folders of .txt, NAME=FILE");
  app.add_option("--text-tokens", options.texts.tokens, "with --text: the first so many tokens of each; 0: all")
      ->check(whole_from(0))
      ->needs(files);
  app.add_flag("--quick", options.texts.quick,
               "quick perplexity: the first 10,000 tokens of each text, its mean loss at most 20")
      ->needs(files);
  app.add_flag("--token-accuracy", options.texts.token_accuracy,
               "also how many tokens of the texts were the likeliest, and among the five likeliest")
      ->needs(files);
}

}  // namespace

void add_extra_options(CLI::App& app, ExtraOptions& options) {
  add_task_options(app, options);
  add_text_options(app, options);
  add_speed_options(app, options);
  app.add_option("--merges", options.tasks.merges,
                 "GPT-2's merges.txt, for --tasks, --text, --squad and --trivia; without it data.tokenizer says how "
                 "texts become tokens");
  app.final_callback([&app, &options] { check_together(app, options); });
  app.add_flag("--held-out", options.held_out,
               "with what else is scored: also the held-out text (or name one by --set data.val=...)");
}

ExtraEvaluations::ExtraEvaluations(World& world, const RunConfig& config, ExtraOptions& options) : options_(options) {
  options.tasks.style = *enum_value<PromptStyle>(options.prompts);
  options.texts.merges = options.tasks.merges;
  if (options.tasks.any()) tasks_ = open_tasks(world, config, options.tasks);
  if (!options.texts.files.empty()) texts_ = open_texts(world, config, options.texts);
}

void ExtraEvaluations::score(World& world, const Gpt2& model, const RunConfig& config,
                             const std::vector<EvaluatedAt>& widths, const EvaluationRanges& ranges, int threads,
                             dist::StopPoll& poll) {
  widths_ = widths;
  const auto is_baseline = [&](const EvaluatedAt& at) { return at.name() == options_.baseline; };
  if (!options_.baseline.empty() && std::none_of(widths.begin(), widths.end(), is_baseline))
    throw dist::AgreedError(
        ErrorKind::kConfig,
        fmt::format("--baseline is \"{}\": expected the name of one of the rows, such as 32", options_.baseline));
  likelihoods_ = *score_tasks(world, model, config, tasks_.set, widths, ranges, threads, options_.tasks, poll);
  for (const std::vector<double>& of_width : likelihoods_) task_found_.push_back(task_figures(tasks_, of_width));
  text_found_ = *score_texts(world, model, config, texts_, widths, ranges, threads, options_.texts, poll);
  for (const EvaluatedAt& at : widths)
    kv_bytes_.push_back(kv_bytes(model, evaluation_precision(model, config.quant, at)));
  if (options_.speed) measure(world, model, config, ranges);
}

void ExtraEvaluations::measure(World& world, const Gpt2& model, const RunConfig& config,
                               const EvaluationRanges& ranges) {
  SpeedOptions passes = options_.passes;
  if (passes.length == 0) passes.length = config.data.sequence_length;
  if (passes.length > config.model.n_positions)
    throw dist::AgreedError(ErrorKind::kConfig, fmt::format("--speed-length is {}: the model reads {} tokens at most",
                                                            passes.length, config.model.n_positions));
  if (config.model.answers_questions())
    throw dist::AgreedError(ErrorKind::kConfig, "--speed is for language models, and this one answers questions");
  constexpr std::int64_t kLayerPasses = 5;
  passes.layer_passes = options_.speed_layers ? kLayerPasses : 0;
  passes.seed = config.run.seed;
  passes.beat = [&] { world.comm().beat(); };
  on_root(world.comm(), "measuring speed", [&] {
    for (const EvaluatedAt& at : widths_) {
      const auto own = ranges.find(at);
      const PrecisionMap precision = evaluation_precision(model, config.quant, at);
      speeds_.push_back(measure_passes(model, precision, own == ranges.end() ? nullptr : &own->second, passes));
    }
  });
}

void ExtraEvaluations::diagnose_on(World& world, Gpt2& model, const RunConfig& config, const EvaluationRanges& ranges,
                                   const TokenSource* held_out) {
  if (!options_.diagnose) return;
  if (held_out == nullptr)
    throw dist::AgreedError(ErrorKind::kConfig, "--diagnose is for language models, and this one answers questions");
  DiagnosisOptions how;
  how.length = std::min(how.length, config.data.sequence_length);
  how.beat = [&] { world.comm().beat(); };
  on_root(world.comm(), "diagnosis", [&] {
    if (!options_.reference.empty()) {
      const CheckpointReader reference = open_checkpoint(options_.reference, warn);
      reference_folder_ = reference.info().folder.string();
      reference_ = compare_with_reference(model, reference);
    }
    for (const EvaluatedAt& at : widths_) {
      const auto own = ranges.find(at);
      const PrecisionMap precision = evaluation_precision(model, config.quant, at);
      diagnoses_.push_back(
          diagnose(model, precision, at.name(), own == ranges.end() ? nullptr : &own->second, *held_out, how));
    }
  });
}

std::string ExtraEvaluations::write_diagnosis(const std::string& output, const std::vector<WidthResult>& widths) const {
  if (!options_.diagnose) return "";
  const auto baseline = baseline_of(widths, options_.baseline);
  std::string text = diagnosis_text(diagnoses_, baseline);
  Value all = Value::object({{"widths", diagnosis_value(diagnoses_, baseline)}});
  if (reference_) {
    text += reference_text(*reference_, reference_folder_);
    all.set("parameters", reference_value(*reference_, reference_folder_));
  }
  if (!output.empty()) {
    const std::filesystem::path folder = output;
    write_file_atomic(folder / "diagnosis.txt", text);
    write_file_atomic(folder / "diagnosis.json", to_json(all, 2) + "\n");
  }
  return text;
}

void ExtraEvaluations::report(FinalReport& report) const {
  report.baseline = options_.baseline;
  report.insights = options_.insights;
  for (std::size_t i = 0; i < report.widths.size(); ++i) {
    if (options_.any() || options_.speed) report.widths[i].kv_bytes = kv_bytes_.at(i);
    if (!speeds_.empty()) report.widths[i].speed = speeds_.at(i);
  }
  if (!options_.any()) return;
  report.title = kEvaluationTitle;
  for (std::size_t i = 0; i < report.widths.size(); ++i) {
    report.widths[i].tasks = task_found_.at(i);
    report.widths[i].texts = text_found_.at(i);
  }
  if (!options_.tasks.any()) return;
  report.summary.emplace_back("prompts", options_.prompts);
  report.details.set("prompts", options_.prompts);
  if (options_.tasks.limit == 0) return;
  report.summary.emplace_back("items of a task, at most", std::to_string(options_.tasks.limit));
  report.details.set("limit", options_.tasks.limit);
}

void ExtraEvaluations::write_items() const {
  if (options_.items.empty()) return;
  std::string lines;
  for (std::size_t i = 0; i < widths_.size(); ++i) lines += tasks_.set.item_lines(likelihoods_[i], widths_[i].name());
  write_file_atomic(options_.items, lines);
}

void ExtraEvaluations::throw_missing() const {
  std::string missing;
  for (const FailedTask& failed : tasks_.failed) missing += fmt::format("\n  {}: {}", failed.name, failed.error);
  for (const OpenedText& text : texts_)
    if (!text.error.empty()) missing += fmt::format("\n  {}: {}", text.name, text.error);
  if (!missing.empty()) throw dist::AgreedError(ErrorKind::kData, "without a result:" + missing);
  for (std::size_t i = 0; i < widths_.size(); ++i) {
    for (const TaskFigures& task : task_found_[i])
      if (!task.error.empty()) missing += fmt::format("\n  {} at {}: {}", task.task, describe(widths_[i]), task.error);
    for (const TextFigures& text : text_found_[i])
      if (!text.failure().empty())
        missing += fmt::format("\n  {} at {}: {}", text.text, describe(widths_[i]), text.failure());
  }
  if (!missing.empty()) throw dist::AgreedError(ErrorKind::kDiverged, "without a result:" + missing);
}

}  // namespace qat::launch

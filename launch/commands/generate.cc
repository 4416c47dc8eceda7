#include <fmt/format.h>
#include <fmt/ranges.h>

#include <filesystem>
#include <memory>
#include <optional>

#include "dist/comm/agree.h"
#include "launch/asked_map.h"
#include "launch/command.h"
#include "launch/failure.h"
#include "launch/generation_task.h"
#include "launch/number_checks.h"
#include "launch/output_file.h"
#include "launch/refuse.h"
#include "launch/setup_run.h"
#include "launch/stored_model.h"
#include "launch/terminal.h"
#include "launch/world.h"
#include "src/base/file.h"
#include "src/export/hf_model.h"
#include "src/generate/prompt_file.h"
#include "src/train/calibrator.h"
#include "src/train/on_root.h"
#include "src/train/run_state.h"
#include "src/train/step_runner.h"

namespace qat::launch {
namespace {

struct GenerateArguments {
  std::string checkpoint;
  std::vector<std::string> prompts;
  std::string prompt_file;
  AskedWidths widths;
  GenerateOptions options;
  std::string stop;
  bool ignore_end = false, no_cache = false;
  std::int64_t batch_size = 32;
  std::string tokenizer, merges;
  std::vector<std::string> sets;
  std::string output;
  bool overwrite = false;
  bool strict = false;
};

void check_arguments(const GenerateArguments& arguments) {
  if (is_hf_model(arguments.checkpoint))
    refuse(fmt::format("the checkpoint is \"{}\", a model of transformers: `qat_dist import` makes a checkpoint of it",
                       arguments.checkpoint));
  if (arguments.prompts.empty() == arguments.prompt_file.empty())
    refuse(
        "prompts are missing, or are given twice: name them by --prompt TEXT, which may be repeated, or by "
        "--prompts FILE");
  const kernels::SamplingOptions& sampling = arguments.options.sampling;
  if (sampling.is_greedy() && (sampling.top_k > 0 || sampling.top_p < 1.0))
    refuse(
        "--top-k and --top-p choose among likely tokens, and --temperature 0, the default, takes the likeliest: give "
        "a temperature, e.g. --temperature 1");
  if (arguments.output.empty()) return;
  if (!arguments.overwrite && std::filesystem::exists(arguments.output))
    refuse(fmt::format("--out is \"{}\", which is there already: name another file, or replace it by --overwrite",
                       arguments.output));
  prepare_output_file(arguments.output, "--out");
}

// Rank 0's, on every rank.
std::vector<std::string> all_prompts(World& world, const GenerateArguments& arguments) {
  std::string json;
  on_root(world.comm(), "prompts", [&] {
    json =
        to_json(Value::array(arguments.prompt_file.empty() ? arguments.prompts : read_prompts(arguments.prompt_file)));
  });
  std::vector<std::string> prompts;
  const Value shared = parse_json(dist::broadcast_string(world.comm(), json), "prompts");
  for (const Value& one : shared.as_array()) prompts.push_back(one.as_string());
  return prompts;
}

AgreedConfig generation_config(World& world, const TrainState& state, const GenerateArguments& arguments) {
  std::vector<std::string> sets = arguments.sets;
  const bool merges = !arguments.merges.empty();
  if (merges || !arguments.tokenizer.empty()) {
    sets.push_back("data.tokenizer=" + (arguments.tokenizer.empty() ? "gpt2" : arguments.tokenizer));
    sets.push_back("data.merges=" + to_json(arguments.merges));
  }
  return agree_on_stored_config(world, state.config_json, std::move(sets));
}

// What is wrong with widths for generation.
void check_precision(const Gpt2& model, const GenerateArguments& arguments, const RunConfig& config,
                     const PrecisionMap& precision, const EvaluatedAt& at, std::int64_t step) {
  if (!layers_to_calibrate(model, precision, step, /*recalibrate_every=*/0).empty())
    refuse(
        fmt::format("the checkpoint has no calibrated activation ranges for {}: choose widths that it was trained at",
                    describe(at)));
  const std::string layer = shares_ranges(model, config.quant, precision);
  if (!layer.empty() && (arguments.options.cache || arguments.batch_size > 1))
    refuse(
        fmt::format("at {} the inputs of {} share one dynamic range (quant.activation.granularity is \"{}\"), so that "
                    "a token's pass depends on the tokens beside it: give --no-cache --batch-size 1, which is slow, "
                    "or --bits 32",
                    describe(at), layer, enum_name(config.quant.activation.granularity)));
}

int run_generation(World& world, GenerateArguments arguments, RunStatus& status) {
  std::unique_ptr<CheckpointReader> reader;
  on_root(world.comm(), "opening the checkpoint", [&] {
    check_arguments(arguments);
    reader =
        std::make_unique<CheckpointReader>(open_checkpoint(arguments.checkpoint, warn, {.strict = arguments.strict}));
  });
  const TrainState state = load_state(reader.get(), world.comm());
  const AgreedConfig agreed = generation_config(world, state, arguments);
  const RunConfig& config = agreed.loaded.config;
  const std::vector<std::string> prompts = all_prompts(world, arguments);
  EvaluatedAt at;
  dist::on_every_rank(world.comm(), "widths", [&] {
    if (config.model.answers_questions())
      refuse("`generate` is for language models, and this one answers questions (model.task is \"span_qa\")");
    at = asked_precision(arguments.widths, config);
  });
  on_root(world.comm(), "preparing the model",
          [&] { (void)check_structure(*reader, agreed.json, /*parameters=*/nullptr, LoadFor::kEvaluation); });
  arguments.options.cache = !arguments.no_cache;
  std::optional<GenerationTask> task;
  dist::on_every_rank(world.comm(), "prompts", [&] {
    const bool named = !arguments.tokenizer.empty() || !arguments.merges.empty();
    const TokenizerFrom from = named                     ? TokenizerFrom::kCommand
                               : state.data_json.empty() ? TokenizerFrom::kDefault
                                                         : TokenizerFrom::kRun;
    task.emplace(open_generation_tokenizer(config, from), config.model, prompts,
                 GenerationSettings{.options = arguments.options,
                                    .stop = arguments.stop,
                                    .ignore_end = arguments.ignore_end,
                                    .batch_size = arguments.batch_size});
  });
  status.start_watchdog(world, config.watchdog);
  const ComputeMode mode = world.use_device(config.compute);
  const int threads = world.use_threads(config.parallel.threads_per_rank);
  Gpt2 model(config.model, config.lora, config.quant, StepRunner::padding(1), mode);
  for (const std::string& note : load_model(reader.get(), model, world.comm(), LoadFor::kEvaluation, agreed.json))
    warn(note);
  const PrecisionMap precision = evaluation_precision(model, config.quant, at);
  dist::on_every_rank(world.comm(), "widths",
                      [&] { check_precision(model, arguments, config, precision, at, state.step); });
  if (world.is_root()) warn_of_untrained(model, config.quant, at);
  model.parameters().gather(model.groups_used(precision), world.comm());
  world.board().enter(dist::Section::kEvaluation);
  const GenerationOutcome outcome = task->run(model, precision, threads, world.comm());
  on_root(world.comm(), "writing texts", [&] {
    print(task->report(outcome));
    print(fmt::format("  at {}, keys and values {}; {}\n", describe(at),
                      arguments.no_cache ? "worked out again for each token" : "kept", reader->info().folder.string()));
    if (!arguments.output.empty()) write_file_atomic(arguments.output, task->json_lines(outcome));
  });
  return 0;
}

void add_sampling(CLI::App& app, GenerateArguments& arguments) {
  kernels::SamplingOptions& sampling = arguments.options.sampling;
  app.add_option("--max-new-tokens", arguments.options.max_new_tokens, "of each text")
      ->check(whole_from(1))
      ->capture_default_str();
  app.add_option("--temperature", sampling.temperature, "0: the likeliest token each time; above 0: drawn")
      ->check(at_least(0))
      ->capture_default_str();
  app.add_option("--top-k", sampling.top_k, "draw among so many likeliest tokens; 0: all")
      ->check(whole_from(0))
      ->capture_default_str();
  app.add_option("--top-p", sampling.top_p, "draw among the fewest likeliest tokens of this probability together")
      ->check(between(1e-9, 1))
      ->capture_default_str();
  app.add_option("--repetition-penalty", sampling.repetition_penalty,
                 "divides the logits of tokens that the text has already; 1: none")
      ->check(between(1e-3, 1e9))
      ->capture_default_str();
  app.add_option("--seed", arguments.options.seed, "of what is drawn")->check(whole_from(0))->capture_default_str();
  app.add_option("--stop", arguments.stop, "text that ends a text, and is no part of it");
  app.add_flag("--ignore-end", arguments.ignore_end, "go on behind an end of text");
}

}  // namespace

Run add_generate(CLI::App& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  app.add_option("checkpoint,--checkpoint", arguments->checkpoint,
                 "checkpoint folder, or a run folder: its newest checkpoint")
      ->required();
  app.add_option("--prompt", arguments->prompts, "text to go on with; may be repeated")->take_all();
  app.add_option("--prompts", arguments->prompt_file,
                 "file of prompts, one a line, or *.jsonl with objects {\"prompt\": \"text\"}");
  app.add_option("--bits", arguments->widths.bits, "width of the model; default: 32, unquantized")
      ->check(whole_from(0));
  app.add_option("--bitmap", arguments->widths.bitmap,
                 "widths layer by layer, e.g. 8,8,4,..., 'attn=8,mlp=4,act=8,kv=8'");
  app.add_option("--config-name", arguments->widths.config_name,
                 "widths of weights, activations, and keys and values: " + named_configurations());
  add_sampling(app, *arguments);
  app.add_option("--batch-size", arguments->batch_size, "prompts that go through the model together")
      ->check(whole_from(1))
      ->capture_default_str();
  app.add_flag("--no-cache", arguments->no_cache, "work out keys and values of the whole text again for each token");
  app.add_flag("!--no-graph", arguments->options.graph,
               "on a GPU, with the cache: enqueue a token's kernels one by one, instead of recording them once");
  app.add_option("--tokenizer", arguments->tokenizer, "byte or gpt2; default: the run's data.tokenizer")
      ->check(CLI::IsMember(enum_names<TokenizerKind>()));
  app.add_option("--merges", arguments->merges, "the tokenizer gpt2's merges.txt");
  app.add_option("--set", arguments->sets, "override, e.g. compute.device=cpu")->take_all();
  app.add_option("-o,--out", arguments->output, "file for the texts, one JSON object a line");
  app.add_flag("--overwrite", arguments->overwrite, "replace the file");
  app.add_flag("--strict", arguments->strict, "a damaged newest checkpoint of a run is an error: take no older one");
  app.footer(
      "Prints each prompt with its text, then the speed. What is drawn depends on --seed, the prompt's number and the\n"
      "token's position alone. Under mpirun batches of prompts are dealt to the ranks.");
  return [arguments](Invocation invocation) {
    RunStatus status;
    World world(invocation.argc, invocation.argv);
    return run_guarded(world, status, [&] { return run_generation(world, *arguments, status); });
  };
}

}  // namespace qat::launch

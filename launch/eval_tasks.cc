#include "launch/eval_tasks.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <functional>
#include <utility>

#include "dist/comm/agree.h"
#include "launch/named_files.h"
#include "src/base/file.h"
#include "src/data/few_shot_task.h"
#include "src/text/tokenizer.h"

namespace qat::launch {
namespace {

// What must be the same on all ranks.
std::uint64_t hash_of(const std::vector<std::string>& paths) {
  std::uint64_t hash = paths.size();
  for (const std::string& path : paths) {
    const std::string content = read_file(path, ErrorKind::kData);
    hash = hash * 31 + XXH3_64bits(content.data(), content.size());
  }
  return hash;
}

// Collective. What `read` cannot read (kData) is among the failed ones.
void add_task(World& world, FailedTask task, OpenedTasks& opened, const std::function<std::uint64_t(TaskSet&)>& read) {
  try {
    TaskSet one;
    dist::on_every_rank(world.comm(), "task " + task.name, [&] { return read(one); });
    opened.set.append(std::move(one));
  } catch (const dist::AgreedError& error) {
    if (error.kind() != ErrorKind::kData) throw;
    task.error = error.what();
    opened.failed.push_back(std::move(task));
  }
}

// MMLU's folders have a file for each subject: .csv, as published, or else .jsonl.
std::vector<std::string> paths_of(const std::vector<std::string>& given, const std::string& option) {
  std::vector<std::string> paths;
  for (const std::string& one : given)
    for (const NamedFile& file : named_files({one}, option, has_files(one, ".csv") ? ".csv" : ".jsonl"))
      paths.push_back(file.path);
  return paths;
}

}  // namespace

std::unique_ptr<Tokenizer> open_text_tokenizer(const RunConfig& config, const std::string& merges) {
  const std::string& file = merges.empty() ? config.data.merges : merges;
  const std::string kind = merges.empty() ? enum_name(config.data.tokenizer) : "gpt2";
  std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(kind, file, /*vocab_path=*/"");
  constexpr std::int64_t kGpt2Vocabulary = 50257;
  const std::int64_t known = config.model.vocab_size;
  if (known < tokenizer->vocab_size() || (kind == "byte" && known >= kGpt2Vocabulary))
    throw Error(ErrorKind::kConfig,
                fmt::format("the model has {} ids (model.vocab_size) and the tokenizer \"{}\" {}: {}", known, kind,
                            tokenizer->vocab_size(),
                            kind == "byte" ? "name GPT-2's merges.txt by --merges"
                                           : "the model was trained on another tokenizer's tokens"));
  return tokenizer;
}

OpenedTasks open_tasks(World& world, const RunConfig& config, const TaskOptions& options) {
  OpenedTasks opened;
  std::vector<NamedFile> files;
  const FailedTask few_shot{.name = "mmlu",
                            .file = options.few_shot.empty() ? "" : options.few_shot.front(),
                            .has_groups = true,
                            .error = {}};
  std::unique_ptr<Tokenizer> tokenizer;
  dist::on_every_rank(world.comm(), "task files", [&] {
    if (config.model.answers_questions())
      throw Error(ErrorKind::kConfig,
                  "--tasks are for language models, and this one answers questions (model.task is \"span_qa\")");
    files = named_files(options.files, "--tasks", ".jsonl");
    tokenizer = open_text_tokenizer(config, options.merges);
    std::uint64_t hash = files.size();
    for (const NamedFile& file : files) hash = hash * 31 + XXH3_64bits(file.name.data(), file.name.size());
    return hash;
  });
  for (const NamedFile& file : files)
    add_task(world, FailedTask{.name = file.name, .file = file.path, .error = {}}, opened, [&](TaskSet& one) {
      one.add(read_choice_task(file.name, file.path, options.style, options.limit), *tokenizer,
              config.model.n_positions);
      return hash_of({file.path});
    });
  if (!options.few_shot.empty())
    add_task(world, few_shot, opened, [&](TaskSet& one) {
      const auto questions = paths_of(options.few_shot, "--few-shot"),
                 examples = paths_of(options.examples, "--examples");
      one.add(few_shot_task(few_shot.name, read_subject_questions(questions), read_subject_questions(examples),
                            options.shots, options.style, options.limit),
              *tokenizer, config.model.n_positions);
      return hash_of(questions) ^ hash_of(examples);
    });
  return opened;
}

std::optional<std::vector<std::vector<double>>> score_tasks(World& world, const Gpt2& model, const RunConfig& config,
                                                            const TaskSet& tasks,
                                                            const std::vector<EvaluatedAt>& widths,
                                                            const EvaluationRanges& ranges, int threads,
                                                            const TaskOptions& options, dist::StopPoll& poll) {
  std::vector<std::vector<double>> all;
  for (const EvaluatedAt& at : widths) {
    const auto own = ranges.find(at);
    const PrecisionMap precision = evaluation_precision(model, config.quant, at);
    auto found = log_likelihoods({.model = model,
                                  .precision = precision,
                                  .threads = threads,
                                  .grid = world.comm(),
                                  .poll = poll,
                                  .ranges = own == ranges.end() ? nullptr : &own->second},
                                 config.quant, tasks.texts(), options.tokens_of_pass(model.mode().is_cuda()));
    if (!found) return std::nullopt;
    all.push_back(*std::move(found));
  }
  return all;
}

std::vector<TaskFigures> task_figures(const OpenedTasks& tasks, const std::vector<double>& log_likelihoods) {
  std::vector<TaskFigures> figures = tasks.set.figures(log_likelihoods);
  for (const FailedTask& failed : tasks.failed)
    figures.push_back({.task = failed.name,
                       .kind = "unknown",
                       .file = failed.file,
                       .has_groups = failed.has_groups,
                       .groups = {},
                       .error = failed.error});
  return figures;
}

}  // namespace qat::launch

#include "launch/eval_answers.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <filesystem>
#include <functional>
#include <utility>

#include "dist/comm/agree.h"
#include "launch/eval_tasks.h"
#include "launch/number_checks.h"
#include "src/base/file.h"
#include "src/eval/prediction_file.h"
#include "src/generate/generator.h"
#include "src/report/table.h"
#include "src/text/tokenizer.h"

namespace qat::launch {
namespace {

std::uint64_t content_hash(const std::vector<OpenQuestion>& questions) {
  std::uint64_t hash = questions.size();
  for (const OpenQuestion& one : questions) {
    const std::string text = one.id + one.before + one.context + one.after;
    hash = hash * 31 + XXH3_64bits(text.data(), text.size());
    for (const std::string& right : one.right) hash = hash * 31 + XXH3_64bits(right.data(), right.size());
  }
  return hash;
}

std::string figures_text(const GeneratedAnswers& found, AnswerRule rule, std::size_t questions) {
  std::string text = rule == AnswerRule::kWords
                         ? fmt::format("exact match {:.2f} %, F1 {:.2f} %", found.exact_match, found.f1)
                         : fmt::format("contains an answer {:.2f} %", found.exact_match);
  text += fmt::format(", {} questions", questions);
  if (found.shortened > 0) text += fmt::format(", {} with a part of their text", found.shortened);
  return text;
}

}  // namespace

void add_answer_options(CLI::App& app, AnswerOptions& options) {
  app.add_option("--squad", options.squad,
                 "files as SQuAD's, whose questions a language model answers in its own words: exact match and F1")
      ->take_all();
  CLI::Option* trivia = app.add_option("--trivia", options.trivia,
                                       "a file as TriviaQA's: how often an answer contains one of the right ones");
  CLI::Option* examples =
      app.add_option("--trivia-examples", options.trivia_examples, "with --trivia: likewise, of another split");
  app.add_option("--trivia-shots", options.trivia_shots, "with --trivia: examples put before a question")
      ->check(whole_from(0))
      ->capture_default_str()
      ->needs(trivia);
  trivia->needs(examples);
  examples->needs(trivia);
  app.add_option("--answer-tokens", options.generated.max_new_tokens, "of an answer to --squad or --trivia, at most")
      ->check(whole_from(1))
      ->capture_default_str();
  app.add_option("--answer-batch", options.generated.batch_size, "questions that are answered together")
      ->check(whole_from(1))
      ->capture_default_str();
}

AnswerEvaluation::AnswerEvaluation(World& world, const RunConfig& config, const std::string& merges,
                                   const AnswerOptions& options) {
  if (!options.any()) return;
  std::shared_ptr<const Tokenizer> tokenizer;
  dist::on_every_rank(world.comm(), "questions to answer", [&] {
    if (config.model.answers_questions())
      throw Error(ErrorKind::kConfig,
                  "--squad and --trivia are for language models; this one points at answers (model.task is "
                  "\"span_qa\"): name its questions by --set data.val=...");
    tokenizer = open_text_tokenizer(config, merges);
  });
  const auto add = [&](const std::string& name, AnswerRule rule,
                       const std::function<std::vector<OpenQuestion>()>& read) {
    try {
      dist::on_every_rank(world.comm(), name + " questions", [&] {
        std::vector<OpenQuestion> questions = read();
        const std::uint64_t hash = content_hash(questions);
        tasks_.push_back({name, OpenQuestionSet(std::move(questions), rule, tokenizer, config.model.n_positions,
                                                options.generated)});
        return hash;
      });
    } catch (const dist::AgreedError& error) {
      if (error.kind() != ErrorKind::kData) throw;
      std::erase_if(tasks_, [&](const Task& task) { return task.name == name; });  // of a rank that could read it
      failed_.push_back({name, error.what()});
    }
  };
  if (!options.squad.empty())
    add("squad", AnswerRule::kWords, [&] { return squad_prompts(open_squad(options.squad, "--squad")); });
  if (!options.trivia.empty())
    add("trivia", AnswerRule::kContains, [&] {
      const auto examples = read_trivia(options.trivia_examples);
      return trivia_prompts(read_trivia(options.trivia), examples, static_cast<std::size_t>(options.trivia_shots));
    });
}

void AnswerEvaluation::score(World& world, const Gpt2& model, const RunConfig& config,
                             const std::vector<EvaluatedAt>& widths, const EvaluationRanges& ranges, int threads,
                             dist::StopPoll& poll) {
  for (const EvaluatedAt& at : widths) {
    const PrecisionMap precision = evaluation_precision(model, config.quant, at);
    const auto own = ranges.find(at);
    for (std::size_t task = 0; task < tasks_.size(); ++task) {
      if (const std::string layer = shares_ranges(model, config.quant, precision); !layer.empty())
        throw dist::AgreedError(
            ErrorKind::kConfig,
            fmt::format(
                "--{} at {}: the inputs of {} share one dynamic range (quant.activation.granularity is \"{}\"), "
                "so that an answer depends on the questions beside it: leave this width out",
                tasks_[task].name, describe(at), layer, enum_name(config.quant.activation.granularity)));
      auto found = tasks_[task].questions.answer({.model = model,
                                                  .precision = precision,
                                                  .threads = threads,
                                                  .grid = world.comm(),
                                                  .poll = poll,
                                                  .ranges = own == ranges.end() ? nullptr : &own->second});
      if (!found) return;
      found_.push_back({task, at, *std::move(found)});
    }
  }
}

void AnswerEvaluation::report(FinalReport& report) const {
  if (tasks_.empty() && failed_.empty()) return;
  std::vector<Value> all;
  for (const Found& one : found_) {
    const Task& task = tasks_[one.task];
    const std::size_t questions = task.questions.questions().size();
    const AnswerRule rule = task.questions.rule();
    report.summary.emplace_back(fmt::format("{} at {}", task.name, describe(one.at)),
                                figures_text(one.answers, rule, questions));
    Value object = Value::object({{"task", task.name}, {"bits", one.at.name()}, {"questions", questions}});
    if (rule == AnswerRule::kWords) {
      object.set("exact_match", one.answers.exact_match);
      object.set("f1", one.answers.f1);
    } else {
      object.set("contains_answer", one.answers.exact_match);
    }
    object.set("shortened", one.answers.shortened);
    all.push_back(std::move(object));
  }
  for (const Failed& failed : failed_) {
    report.summary.emplace_back(failed.name, "- (" + failed.error + ")");
    all.push_back(Value::object({{"task", failed.name}, {"error", failed.error}}));
  }
  report.details.set("generated_answers", Value::array(std::move(all)));
}

std::string AnswerEvaluation::table() const {
  if (tasks_.empty() && failed_.empty()) return {};
  Table table({"Task", "At", "Questions"});
  for (const Found& one : found_) {
    const Task& task = tasks_[one.task];
    const bool words = task.questions.rule() == AnswerRule::kWords;
    std::vector<Table::Cell> row = {
        {"Task", task.name},
        {"At", one.at.name()},
        {"Questions", std::to_string(task.questions.questions().size())},
        {"Shortened", std::to_string(one.answers.shortened)},
        {words ? "Exact match" : "Contains", fmt::format("{:.2f}", one.answers.exact_match)}};
    if (words) row.push_back({"F1", fmt::format("{:.2f}", one.answers.f1)});
    table.add_row(row);
  }
  for (const Failed& failed : failed_) table.add_row({{"Task", failed.name}});
  std::string text = table.ascii();
  for (const Failed& failed : failed_) text += fmt::format("no result of {}: {}\n", failed.name, failed.error);
  return text;
}

void AnswerEvaluation::throw_missing() const {
  std::string missing;
  for (const Failed& failed : failed_) missing += fmt::format("\n  {}: {}", failed.name, failed.error);
  if (!missing.empty()) throw dist::AgreedError(ErrorKind::kData, "without a result:" + missing);
}

void AnswerEvaluation::write_predictions(const std::string& dir) const {
  for (const Found& one : found_)
    write_file_atomic(
        std::filesystem::path(dir) / fmt::format("answers_{}_{}.json", tasks_[one.task].name, file_name_of(one.at)),
        tasks_[one.task].questions.predictions(one.answers));
}

}  // namespace qat::launch

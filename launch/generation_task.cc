#include "launch/generation_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"
#include "src/base/json.h"
#include "src/quant/torch_parallel.h"

namespace qat::launch {
namespace {

Value to_value(const std::vector<GeneratedText>& texts) {
  std::vector<Value> all;
  for (const GeneratedText& text : texts)
    all.push_back(Value::object({{"stop", enum_name(text.stop)}, {"tokens", Value::array(text.tokens)}}));
  return Value::array(std::move(all));
}

GeneratedText from_value(const Value& value) {
  GeneratedText text{.tokens = {}, .stop = *enum_value<StopReason>(value.at("stop").as_string())};
  for (const Value& token : value.at("tokens").as_array()) text.tokens.push_back(static_cast<int>(token.as_int()));
  return text;
}

// A rank's part, as text for the others.
std::string packed(const std::vector<GeneratedText>& texts, const GenerationWork& work, double seconds) {
  return to_json(Value::object({{"texts", to_value(texts)},
                                {"prompt_tokens", work.prompt_tokens},
                                {"new_tokens", work.new_tokens},
                                {"step_tokens", work.step_tokens},
                                {"prompt_seconds", work.prompt_seconds},
                                {"step_seconds", work.step_seconds},
                                {"seconds", seconds}}));
}

double rate(std::int64_t tokens, double seconds, int workers) {
  return seconds > 0.0 ? static_cast<double>(tokens) * workers / seconds : 0.0;
}

}  // namespace

std::unique_ptr<Tokenizer> open_generation_tokenizer(const RunConfig& config, TokenizerFrom from) {
  std::unique_ptr<Tokenizer> tokenizer =
      make_tokenizer(enum_name(config.data.tokenizer), config.data.merges, /*vocab_path=*/"");
  const std::int64_t ids = tokenizer->vocab_size(), known = config.model.vocab_size;
  const bool bytes = config.data.train == std::vector<std::string>{"builtin"};
  const bool meant = from == TokenizerFrom::kCommand ||
                     (from == TokenizerFrom::kRun && (config.data.tokenizer != TokenizerKind::kByte || bytes));
  if (ids > known || (ids < known && !meant))
    throw Error(
        ErrorKind::kConfig,
        fmt::format("the tokenizer \"{}\" has {} ids, and the model {} (model.vocab_size): name the one that it "
                    "was trained with, by --tokenizer gpt2 --merges merges.txt or --tokenizer byte",
                    tokenizer->name(), ids, known));
  return tokenizer;
}

GenerationTask::GenerationTask(std::unique_ptr<Tokenizer> tokenizer, const Gpt2Config& model,
                               const std::vector<std::string>& prompts, GenerationSettings settings)
    : tokenizer_(std::move(tokenizer)), texts_(prompts), settings_(std::move(settings)) {
  settings_.options.vocabulary = tokenizer_->vocab_size();
  if (!settings_.ignore_end) settings_.options.end_of_text = tokenizer_->end_of_text();
  if (!settings_.stop.empty())
    settings_.options.is_enough = [this](std::span<const int> tokens) { return has_stop(tokens); };
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    Prompt prompt{.tokens = tokenizer_->encode(texts_[i]), .number = i};
    if (prompt.tokens.empty()) prompt.tokens = {tokenizer_->end_of_text()};
    if (std::cmp_greater(prompt.tokens.size(), model.n_positions))
      throw Error(ErrorKind::kConfig,
                  fmt::format("prompt {} (\"{}...\") has {} tokens; this model takes up to {} "
                              "(model.n_positions): shorten it",
                              i + 1, texts_[i].substr(0, 40), prompt.tokens.size(), model.n_positions));
    prompts_.push_back(std::move(prompt));
  }
}

// It ends with the newest token, so that at most as many tokens as it has bytes are part of it.
bool GenerationTask::has_stop(std::span<const int> tokens) const {
  const std::size_t most = std::min(tokens.size(), settings_.stop.size());
  return tokenizer_->decode(tokens.last(most)).find(settings_.stop) != std::string::npos;
}

GenerationOutcome GenerationTask::run(const Gpt2& model, const PrecisionMap& precision, int threads,
                                      dist::Communicator& comm) const {
  const auto size = static_cast<std::size_t>(settings_.batch_size), ranks = static_cast<std::size_t>(comm.size());
  const std::size_t batches = (prompts_.size() + size - 1) / size;
  std::vector<std::size_t> mine;
  for (auto batch = static_cast<std::size_t>(comm.rank()); batch < batches; batch += ranks) mine.push_back(batch);
  std::vector<std::vector<GeneratedText>> found(mine.size());
  std::vector<GenerationWork> work(mine.size());
  WeightCache weights;
  const ForwardContext context{.precision = &precision, .weight_cache = &weights};
  const int at_once = model.mode().is_cuda() ? 1 : threads;  // passes
  const auto begin = std::chrono::steady_clock::now();
  std::vector<GeneratedText> own;
  GenerationWork done;
  dist::on_every_rank(comm, "generating texts", [&] {
    run_torch_parallel(std::ssize(mine), at_once, [&](std::int64_t i) {
      const auto turn = static_cast<std::size_t>(i);
      const std::size_t first = mine[turn] * size;
      found[turn] =
          generate(model, context, std::span(prompts_).subspan(first, std::min(size, prompts_.size() - first)),
                   settings_.options, &work[turn]);
      comm.beat();
    });
    for (std::size_t turn = 0; turn < mine.size(); ++turn) {
      own.insert(own.end(), found[turn].begin(), found[turn].end());
      done += work[turn];
    }
  });
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  GenerationOutcome outcome{.texts = std::vector<GeneratedText>(prompts_.size())};
  const std::vector<std::string> parts = dist::gather_strings(comm, packed(own, done, seconds));
  for (std::size_t rank = 0; rank < ranks; ++rank) {
    const Value part = parse_json(parts[rank], "a rank's texts", ErrorKind::kInternal);
    const Value::Array& texts = part.at("texts").as_array();
    for (std::size_t i = 0; i < texts.size(); ++i)
      outcome.texts[(i / size * ranks + rank) * size + i % size] = from_value(texts[i]);
    outcome.work += {.prompt_tokens = part.at("prompt_tokens").as_int(),
                     .new_tokens = part.at("new_tokens").as_int(),
                     .step_tokens = part.at("step_tokens").as_int(),
                     .prompt_seconds = part.at("prompt_seconds").as_double(),
                     .step_seconds = part.at("step_seconds").as_double()};
    outcome.seconds = std::max(outcome.seconds, part.at("seconds").as_double());
  }
  outcome.workers = static_cast<int>(std::min(batches, ranks * static_cast<std::size_t>(at_once)));
  return outcome;
}

std::string GenerationTask::text_of(const GeneratedText& generated) const {
  std::string text = tokenizer_->decode(generated.tokens);
  if (generated.stop == StopReason::kStopText) text.resize(text.find(settings_.stop));
  return text;
}

std::string GenerationTask::report(const GenerationOutcome& outcome) const {
  std::string text;
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const GeneratedText& one = outcome.texts[i];
    text += fmt::format("[{}] {} + {} tokens, {}\n{}{}\n", i + 1, prompts_[i].tokens.size(), one.tokens.size(),
                        enum_name(one.stop), texts_[i], text_of(one));
  }
  const GenerationWork& work = outcome.work;
  text += fmt::format(
      "{} new tokens behind {} of {} prompt{} in {:.3g} s: prompts {:.0f} tokens/s, then {:.0f} tokens/s{}\n",
      work.new_tokens, work.prompt_tokens, texts_.size(), texts_.size() == 1 ? "" : "s", outcome.seconds,
      rate(work.prompt_tokens, work.prompt_seconds, outcome.workers),
      rate(work.step_tokens, work.step_seconds, outcome.workers),
      outcome.workers > 1 ? fmt::format(", {} batches at a time", outcome.workers) : "");
  return text;
}

std::string GenerationTask::json_lines(const GenerationOutcome& outcome) const {
  std::string lines;
  for (std::size_t i = 0; i < texts_.size(); ++i) {
    const GeneratedText& one = outcome.texts[i];
    lines += to_json(Value::object({{"prompt", texts_[i]},
                                    {"text", text_of(one)},
                                    {"stop", enum_name(one.stop)},
                                    {"prompt_tokens", prompts_[i].tokens.size()},
                                    {"tokens", Value::array(one.tokens)}})) +
             "\n";
  }
  return lines;
}

}  // namespace qat::launch

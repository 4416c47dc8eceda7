#include "src/eval/generated_answers.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/common/error.h"
#include "src/base/json.h"
#include "src/eval/answer_score.h"

namespace qat {
namespace {

std::string_view without_white_space(std::string_view text) {
  constexpr std::string_view kWhite = " \t\r\n";
  const std::size_t first = text.find_first_not_of(kWhite);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kWhite) - first + 1);
}

// A line that has something in it has ended.
bool has_a_line(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && text.find('\n', first) != std::string_view::npos;
}

bool contains_one(const std::string& answer, const std::vector<std::string>& right) {
  const std::string normalized = normalized_answer(answer);
  return std::any_of(right.begin(), right.end(), [&](const std::string& text) {
    const std::string part = normalized_answer(text);
    return !part.empty() && normalized.find(part) != std::string::npos;
  });
}

}  // namespace

OpenQuestionSet::OpenQuestionSet(std::vector<OpenQuestion> questions, AnswerRule rule,
                                 std::shared_ptr<const Tokenizer> tokenizer, std::int64_t n_positions,
                                 const GeneratedAnswerOptions& options)
    : questions_(std::move(questions)), rule_(rule), tokenizer_(std::move(tokenizer)), options_(options) {
  if (n_positions <= options.max_new_tokens)
    throw Error(ErrorKind::kConfig,
                fmt::format("answers of up to {} tokens leave no room for questions in model.n_positions = {}: allow "
                            "fewer new tokens",
                            options.max_new_tokens, n_positions));
  const auto most = static_cast<std::size_t>(n_positions - options.max_new_tokens);
  for (std::size_t i = 0; i < questions_.size(); ++i) {
    PromptTokens prompt = prompt_tokens(questions_[i], *tokenizer_, most);
    if (prompt.shortened) ++shortened_;
    prompts_.push_back({.tokens = std::move(prompt.tokens), .number = i});
  }
  std::stable_sort(prompts_.begin(), prompts_.end(),
                   [](const Prompt& a, const Prompt& b) { return a.tokens.size() < b.tokens.size(); });
}

std::optional<GeneratedAnswers> OpenQuestionSet::answer(const EvaluationJob& job) const {
  const auto size = static_cast<std::size_t>(options_.batch_size);
  const auto numbers =
      static_cast<std::size_t>(options_.max_new_tokens) + 1;  // of an answer: how many tokens, and they
  const GenerateOptions options{
      .max_new_tokens = options_.max_new_tokens,
      .end_of_text = tokenizer_->end_of_text(),
      .vocabulary = tokenizer_->vocab_size(),
      .sampling = {},
      .is_enough = [this](std::span<const int> tokens) { return has_a_line(tokenizer_->decode(tokens)); }};
  const auto found = run_dealt_passes(
      job, (prompts_.size() + size - 1) / size, size * numbers, "questions",
      [&](std::size_t pass, const ForwardContext& context, std::span<double> out) {
        const std::size_t first = pass * size, count = std::min(size, prompts_.size() - first);
        const auto texts = generate(job.model, context, std::span(prompts_).subspan(first, count), options);
        for (std::size_t i = 0; i < count; ++i) {
          out[i * numbers] = static_cast<double>(texts[i].tokens.size());
          std::copy(texts[i].tokens.begin(), texts[i].tokens.end(),
                    out.begin() + static_cast<std::ptrdiff_t>(i * numbers + 1));
        }
      });
  if (!found) return std::nullopt;
  GeneratedAnswers result{.answers = std::vector<std::string>(questions_.size()), .shortened = shortened_};
  for (std::size_t i = 0; i < prompts_.size(); ++i)
    result.answers[prompts_[i].number] = text_of(std::span(*found).subspan(i * numbers, numbers));
  for (std::size_t q = 0; q < questions_.size(); ++q) {
    if (rule_ == AnswerRule::kContains) {
      result.exact_match += contains_one(result.answers[q], questions_[q].right) ? 1.0 : 0.0;
      continue;
    }
    const std::vector<std::string_view> right(questions_[q].right.begin(), questions_[q].right.end());
    const AnswerMatch match = match_answer(result.answers[q], right);
    result.exact_match += match.exact, result.f1 += match.f1;
  }
  const double percent = 100.0 / static_cast<double>(questions_.size());
  result.exact_match *= percent, result.f1 *= percent;
  return result;
}

std::string OpenQuestionSet::text_of(std::span<const double> numbers) const {
  std::vector<int> tokens;
  for (std::size_t i = 1; i <= static_cast<std::size_t>(numbers[0]); ++i)
    tokens.push_back(static_cast<int>(numbers[i]));
  const std::string text = tokenizer_->decode(tokens);
  const std::string_view said = without_white_space(text);
  return std::string(without_white_space(said.substr(0, said.find('\n'))));
}

std::string OpenQuestionSet::predictions(const GeneratedAnswers& found) const {
  std::vector<Value::Member> members;
  for (std::size_t i = 0; i < questions_.size(); ++i) members.push_back({questions_[i].id, found.answers[i]});
  return to_json(Value::object(std::move(members)), 2) + "\n";
}

}  // namespace qat

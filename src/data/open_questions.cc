#include "src/data/open_questions.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/text/utf8.h"

namespace qat {
namespace {

// Under which names a form of TriviaQA has its members.
struct TriviaKeys {
  const char *question, *id, *answer, *value, *aliases;
};
constexpr TriviaKeys kPublished{"Question", "QuestionId", "Answer", "Value", "Aliases"};
constexpr TriviaKeys kByLine{"question", "question_id", "answer", "value", "aliases"};

[[noreturn]] void fail(const std::string& where, const std::string& expected) {
  throw Error(ErrorKind::kData, fmt::format("{}: expected {}", where, expected));
}

const Value& text_of(const Value& object, const char* key, const std::string& where) {
  const Value* found = object.is_object() ? object.find(key) : nullptr;
  if (found == nullptr || !found->is_string() || found->as_string().empty())
    fail(where, fmt::format("\"{}\", a text", key));
  return *found;
}

TriviaQuestion trivia_question(const Value& object, const TriviaKeys& keys, const std::string& where) {
  TriviaQuestion one{
      .id = {}, .question = text_of(object, keys.question, where).as_string(), .answer = {}, .aliases = {}};
  if (const Value* id = object.find(keys.id); id != nullptr && id->is_string()) one.id = id->as_string();
  const Value* answer = object.find(keys.answer);
  if (answer == nullptr || !answer->is_object())
    fail(where, fmt::format("\"{}\", an object with \"{}\" and \"{}\"", keys.answer, keys.value, keys.aliases));
  one.answer = text_of(*answer, keys.value, where).as_string();
  one.aliases = {one.answer};
  const Value* aliases = answer->find(keys.aliases);
  if (aliases == nullptr || !aliases->is_array()) fail(where, fmt::format("\"{}\", a list of texts", keys.aliases));
  for (const Value& alias : aliases->as_array()) {
    if (!alias.is_string()) fail(where, fmt::format("texts in \"{}\"", keys.aliases));
    one.aliases.push_back(alias.as_string());
  }
  return one;
}

std::string trivia_text(const TriviaQuestion& one) { return fmt::format("Question: {}\nAnswer:", one.question); }

// The largest end of whole characters up to `end`.
std::size_t whole_characters(std::string_view text, std::size_t end) {
  while (end > 0 && end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U) --end;
  return end;
}

}  // namespace

std::vector<OpenQuestion> squad_prompts(const SquadData& data) {
  std::vector<OpenQuestion> prompts;
  for (const SquadQuestion& question : data.questions) {
    OpenQuestion one{.id = question.id,
                     .before = "Reading:\"",
                     .context = data.contexts[question.context],
                     .after = fmt::format("\"\n\nQuestion:\"{}\"\n\nAnswer:", question.text),
                     .right = {}};
    for (const ByteRange& range : question.answers) one.right.emplace_back(data.answer(question, range));
    prompts.push_back(std::move(one));
  }
  return prompts;
}

std::vector<TriviaQuestion> read_trivia(const std::string& path) {
  const std::string text = read_file(path, ErrorKind::kData);
  std::vector<TriviaQuestion> questions;
  if (path.ends_with(".jsonl")) {
    std::size_t number = 0;
    for (std::size_t begin = 0; begin < text.size();) {
      const std::size_t end = std::min(text.find('\n', begin), text.size());
      const std::string_view line = std::string_view(text).substr(begin, end - begin);
      const std::string where = fmt::format("{}, line {}", path, ++number);
      begin = end + 1;
      if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
      questions.push_back(trivia_question(parse_json(line, where, ErrorKind::kData), kByLine, where));
    }
  } else {
    const Value whole = parse_json(text, path, ErrorKind::kData);
    const Value* data = whole.is_object() ? whole.find("Data") : nullptr;
    if (data == nullptr || !data->is_array())
      fail(path, "\"Data\", a list of questions, or a file named *.jsonl with one a line");
    for (const Value& one : data->as_array())
      questions.push_back(trivia_question(one, kPublished, fmt::format("{}, question {}", path, questions.size() + 1)));
  }
  if (questions.empty()) fail(path, "at least one question");
  return questions;
}

std::vector<OpenQuestion> trivia_prompts(const std::vector<TriviaQuestion>& questions,
                                         const std::vector<TriviaQuestion>& examples, std::size_t shots) {
  std::set<std::string_view> asked;
  for (const TriviaQuestion& one : questions) asked.insert(one.question);
  std::string before;
  std::size_t found = 0;
  for (std::size_t i = 0; i < examples.size() && found < shots; ++i) {
    if (asked.contains(examples[i].question)) continue;
    before += fmt::format("{} {}\n\n", trivia_text(examples[i]), examples[i].answer);
    ++found;
  }
  if (found < shots)
    throw Error(ErrorKind::kData, fmt::format("there are {} examples that are not asked themselves: expected at least "
                                              "{}, as many as are put before a question",
                                              found, shots));
  std::vector<OpenQuestion> prompts;
  for (const TriviaQuestion& one : questions)
    prompts.push_back({.id = one.id, .before = before, .context = "", .after = trivia_text(one), .right = one.aliases});
  return prompts;
}

PromptTokens prompt_tokens(const OpenQuestion& question, const Tokenizer& tokenizer, std::size_t most) {
  const auto encoded = [&](std::string_view context) {
    return tokenizer.encode(question.before + std::string(context) + question.after);
  };
  PromptTokens out{.tokens = encoded(question.context), .shortened = false};
  if (out.tokens.size() <= most) return out;
  const std::vector<std::size_t> ends = tokenizer.token_ends(tokenizer.encode(question.context));
  std::size_t left = ends.size();  // tokens of the context
  out.shortened = true;
  while (out.tokens.size() > most) {
    const std::size_t over = out.tokens.size() - most;
    if (left == 0)
      throw Error(ErrorKind::kData,
                  fmt::format("question \"{}\" has {} tokens without its context, and there is room for {}: a model of "
                              "more positions, fewer new tokens or fewer examples would do",
                              question.id, out.tokens.size(), most));
    left -= std::min(left, over);
    const std::size_t end = left == 0 ? 0 : whole_characters(question.context, ends[left - 1]);
    out.tokens = encoded(std::string_view(question.context).substr(0, end));
  }
  return out;
}

}  // namespace qat

#include "src/data/choice_task.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>

#include "kernels/common/error.h"
#include "src/data/task_record.h"
#include "src/text/white_space.h"

namespace qat {
namespace {

// A limit in characters cannot be reached inside one of them.
std::string first_characters(std::string_view text, std::size_t count) {
  std::size_t end = 0;
  while (end < text.size() && count > 0) {
    ++end;
    while (end < text.size() && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) ++end;
    --count;
  }
  return std::string(text.substr(0, end));
}

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t found = std::min(text.find(from, begin), text.size());
    out += text.substr(begin, found - begin);
    if (found < text.size()) out += to;
    begin = found + from.size();
  }
  return out;
}

// What WikiHow's pages leave in HellaSwag: "[title]" between sentences, other words in brackets. As the harness does
// it.
std::string without_brackets(std::string_view raw) {
  const std::string text = replaced(trimmed(raw), " [title]", ". ");
  std::string out;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t open = text.find('[', begin);
    const std::size_t close = open == std::string::npos ? open : text.find(']', open);
    if (close == std::string::npos || text.find('\n', open) < close) {
      const std::size_t kept = open == std::string::npos ? text.size() : open + 1;
      out += text.substr(begin, kept - begin);
      begin = kept;
    } else {
      out += text.substr(begin, open - begin);
      begin = close + 1;
    }
  }
  return replaced(out, "  ", " ");
}

// Python's str.capitalize, of ASCII's letters.
std::string capitalized(std::string text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (i == 0 && 'a' <= c && c <= 'z') text[i] = static_cast<char>(c - 'a' + 'A');
    if (i > 0 && 'A' <= c && c <= 'Z') text[i] = static_cast<char>(c - 'A' + 'a');
  }
  return text;
}

ChoiceItem same_context(const std::string& context, const std::vector<std::string>& texts, std::size_t answer) {
  ChoiceItem item{.file = {}, .choices = {}, .answer = answer, .group = {}};
  for (const std::string& text : texts) item.choices.push_back({context, " " + text});
  return item;
}

ChoiceItem boolq(const TaskRecord& record, PromptStyle style) {
  const std::string question = record.text("question"), passage = record.text("passage");
  const bool yes = record.flag("answer");
  if (style == PromptStyle::kHarness)
    return same_context(fmt::format("{}\nQuestion: {}?\nAnswer:", passage, question), {"no", "yes"}, yes ? 1 : 0);
  constexpr std::size_t kPassageCharacters = 150;
  return same_context(
      fmt::format("Passage: {}...\nQuestion: {}\nAnswer:", first_characters(passage, kPassageCharacters), question),
      {"True", "False"}, yes ? 0 : 1);
}

ChoiceItem hellaswag(const TaskRecord& record, PromptStyle style) {
  std::vector<std::string> endings = record.texts("endings", 2);
  const std::size_t answer = record.index("label", endings.size());
  std::string context = record.has("ctx_a") ? fmt::format("{}: {} {}", record.text("activity_label"),
                                                          record.text("ctx_a"), capitalized(record.any_text("ctx_b")))
                                            : record.text("ctx");
  if (style == PromptStyle::kHarness) {
    context = without_brackets(context);
    for (std::string& ending : endings) ending = without_brackets(ending);
  }
  return same_context(context, endings, answer);
}

ChoiceItem winogrande(const TaskRecord& record, PromptStyle style) {
  const std::string sentence = record.text("sentence");
  const std::size_t gap = sentence.find('_');
  if (gap == std::string::npos || sentence.find('_', gap + 1) != std::string::npos)
    record.fail("sentence", "a sentence with one \"_\"");
  const std::string before = sentence.substr(0, gap), after = sentence.substr(gap + 1);
  const std::string answer = record.text("answer");
  if (answer != "1" && answer != "2") record.fail("answer", "\"1\" or \"2\"");
  ChoiceItem item{.file = {}, .choices = {}, .answer = answer == "1" ? 0U : 1U, .group = {}};
  for (const char* key : {"option1", "option2"}) {
    const std::string option = record.text(key);
    if (style == PromptStyle::kHarness)
      item.choices.push_back({before + option, " " + std::string(trimmed(after))});
    else
      item.choices.push_back({before, option + after});
  }
  return item;
}

// ARC and OpenBookQA: the choices, and which of their labels is right.
ChoiceItem labelled(const TaskRecord& record, const std::string& question, bool as_question, PromptStyle style) {
  const TaskRecord choices = record.object("choices");
  std::vector<std::string> texts = choices.texts("text", 2);
  const std::vector<std::string> labels = choices.texts("label", 2);
  if (labels.size() != texts.size())
    choices.fail("label", fmt::format("{} labels, one for each of \"text\"", texts.size()));
  const std::string key = record.text("answerKey");
  const auto right = std::find(labels.begin(), labels.end(), trimmed(key));
  if (right == labels.end()) record.fail("answerKey", fmt::format("one of the labels {}", fmt::join(labels, ", ")));
  const bool plain = style == PromptStyle::kPlain;
  if (plain)
    for (std::size_t i = 0; i < texts.size(); ++i) texts[i] = fmt::format("{}. {}", labels[i], texts[i]);
  return same_context(plain || as_question ? fmt::format("Question: {}\nAnswer:", question) : question, texts,
                      static_cast<std::size_t>(right - labels.begin()));
}

ChoiceItem arc(const TaskRecord& record, PromptStyle style) {
  return labelled(record, record.text("question"), /*as_question=*/true, style);
}

ChoiceItem openbookqa(const TaskRecord& record, PromptStyle style) {
  return labelled(record, record.text("question_stem"), /*as_question=*/false, style);
}

ChoiceItem piqa(const TaskRecord& record, PromptStyle) {
  return same_context(fmt::format("Question: {}\nAnswer:", record.text("goal")),
                      {record.text("sol1"), record.text("sol2")}, record.index("label", 2));
}

struct KindRules {
  ChoiceKind kind;
  std::vector<std::string_view> keys;  // that tell it from the others
  ChoiceItem (*read)(const TaskRecord&, PromptStyle);
};
const std::vector<KindRules>& all_kinds() {
  static const std::vector<KindRules> kinds = {
      {ChoiceKind::kBoolQ, {"question", "passage", "answer"}, boolq},
      {ChoiceKind::kHellaSwag, {"endings", "label"}, hellaswag},
      {ChoiceKind::kWinoGrande, {"sentence", "option1", "option2"}, winogrande},
      {ChoiceKind::kArc, {"question", "choices", "answerKey"}, arc},
      {ChoiceKind::kOpenBookQa, {"question_stem", "choices", "answerKey"}, openbookqa},
      {ChoiceKind::kPiqa, {"goal", "sol1", "sol2"}, piqa},
  };
  return kinds;
}

const KindRules& kind_of(const TaskRecord& record, const std::string& where) {
  for (const KindRules& rules : all_kinds())
    if (std::all_of(rules.keys.begin(), rules.keys.end(), [&](std::string_view key) { return record.has(key); }))
      return rules;
  std::string known;
  for (const KindRules& rules : all_kinds())
    known += fmt::format("\n  {}: {}", enum_name(rules.kind), fmt::join(rules.keys, ", "));
  throw Error(ErrorKind::kData, fmt::format("{}: no task that is known here: its keys are {}; expected those of{}",
                                            where, record.keys(), known));
}

}  // namespace

std::int64_t Choice::bytes() const {
  const std::size_t blank = text.starts_with(' ') ? 1 : 0;
  return std::max<std::int64_t>(1, static_cast<std::int64_t>(text.size() - blank));
}

ChoiceTask read_choice_task(const std::string& name, const std::string& path, PromptStyle style, std::int64_t limit) {
  const std::vector<TaskLine> lines = read_task_lines(path);
  if (lines.empty()) throw Error(ErrorKind::kData, fmt::format("{} is empty: expected a JSON object a line", path));
  ChoiceTask task{.name = name, .file = path, .items = {}};
  const KindRules* rules = nullptr;
  for (const TaskLine& line : lines) {
    if (limit > 0 && std::ssize(task.items) == limit) break;
    const TaskRecord record(line.text, path, line.number);
    if (rules == nullptr) rules = &kind_of(record, fmt::format("{}:{}", path, line.number));
    task.items.push_back(rules->read(record, style));
    task.items.back().line = line.number;
  }
  task.kind = rules->kind;
  return task;
}

}  // namespace qat

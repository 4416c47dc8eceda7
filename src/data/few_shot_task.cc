#include "src/data/few_shot_task.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/data/csv.h"
#include "src/data/task_record.h"
#include "src/text/white_space.h"

namespace qat {
namespace {

constexpr std::size_t kAnswers = 4;
constexpr std::array kLetters = {"A", "B", "C", "D"};

[[noreturn]] void fail(const std::string& file, int line, const std::string& what) {
  throw Error(ErrorKind::kData, fmt::format("{}:{}: {}", file, line, what));
}

std::size_t letter_index(const std::string& file, int line, std::string_view text) {
  const auto found = std::find(kLetters.begin(), kLetters.end(), trimmed(text));
  if (found == kLetters.end())
    fail(file, line, fmt::format("field 6, the answer: expected A, B, C or D, found \"{}\"", text));
  return static_cast<std::size_t>(found - kLetters.begin());
}

std::string subject_of(const std::string& file) {
  std::string name = std::filesystem::path(file).stem().string();
  for (const std::string_view split : {"_test", "_dev", "_val"})
    if (name.ends_with(split)) return name.substr(0, name.size() - split.size());
  throw Error(ErrorKind::kData, fmt::format("{}: expected a name <subject>_test.csv, _dev.csv or _val.csv, which says "
                                            "the subject",
                                            file));
}

void read_csv(const std::string& file, std::vector<SubjectQuestion>& out) {
  const std::string subject = subject_of(file);
  for (const CsvRow& row : parse_csv(read_file(file, ErrorKind::kData), file)) {
    if (row.fields.size() != kAnswers + 2)
      fail(file, row.line,
           fmt::format("expected 6 fields, a question, four answers and the right one's letter, found {}",
                       row.fields.size()));
    for (const std::string& field : row.fields)
      if (!is_utf8(field)) fail(file, row.line, "expected UTF-8");
    out.push_back({.file = file,
                   .line = row.line,
                   .subject = subject,
                   .question = row.fields[0],
                   .answers = {row.fields.begin() + 1, row.fields.end() - 1},
                   .right = letter_index(file, row.line, row.fields.back())});
  }
}

void read_json(const std::string& file, std::vector<SubjectQuestion>& out) {
  for (const TaskLine& line : read_task_lines(file)) {
    const TaskRecord record(line.text, file, line.number);
    SubjectQuestion question{.file = file,
                             .line = line.number,
                             .subject = record.text("subject"),
                             .question = record.text("question"),
                             .answers = record.texts("choices", kAnswers),
                             .right = record.index("answer", kAnswers)};
    if (question.answers.size() != kAnswers) record.fail("choices", "a list of 4 texts");
    out.push_back(std::move(question));
  }
}

// A question up to where its answer's letter comes.
std::string asked(const SubjectQuestion& one, PromptStyle style) {
  std::string text = style == PromptStyle::kPlain ? "Question: " : "";
  text += trimmed(one.question);
  for (std::size_t i = 0; i < kAnswers; ++i) text += fmt::format("\n{}. {}", kLetters[i], one.answers[i]);
  return text + "\nAnswer:";
}

std::string spaced(std::string subject) {
  std::replace(subject.begin(), subject.end(), '_', ' ');
  return subject;
}

using BySubject = std::map<std::string, std::vector<const SubjectQuestion*>>;

// What stands before the questions of each subject.
std::map<std::string, std::string> introductions(const BySubject& examples, const BySubject& questions,
                                                 std::int64_t shots, PromptStyle style) {
  std::map<std::string, std::string> all;
  for (const auto& [subject, unused] : questions) {
    const auto found = examples.find(subject);
    const std::int64_t there = found == examples.end() ? 0 : std::ssize(found->second);
    if (there < shots)
      throw Error(ErrorKind::kData, fmt::format("the subject {} has {} examples that are not scored themselves: "
                                                "expected at least {}, as many as are put before a question",
                                                subject, there, shots));
    std::string& text = all[subject];
    if (style == PromptStyle::kHarness)
      text = fmt::format("The following are multiple choice questions (with answers) about {}.\n\n", spaced(subject));
    for (std::int64_t i = 0; i < shots; ++i) {
      const SubjectQuestion& example = *found->second[static_cast<std::size_t>(i)];
      text += fmt::format("{} {}\n\n", asked(example, style), kLetters[example.right]);
    }
  }
  return all;
}

BySubject by_subject(const std::vector<SubjectQuestion>& questions) {
  BySubject all;
  for (const SubjectQuestion& one : questions) all[one.subject].push_back(&one);
  return all;
}

}  // namespace

std::vector<SubjectQuestion> read_subject_questions(const std::vector<std::string>& files) {
  std::vector<SubjectQuestion> questions;
  for (const std::string& file : files) {
    const std::size_t before = questions.size();
    std::filesystem::path(file).extension() == ".csv" ? read_csv(file, questions) : read_json(file, questions);
    if (questions.size() == before) throw Error(ErrorKind::kData, fmt::format("{} has no questions", file));
  }
  return questions;
}

std::string subject_category(const std::string& subject) {
  struct Category {
    const char* name;
    std::vector<std::string_view> words;
  };
  static const std::vector<Category> categories = {
      {"Humanities", {"history", "philosophy", "law"}},
      {"STEM", {"physics", "chemistry", "biology", "computer_science", "math", "engineering"}},
      {"Social", {"politics", "sociology", "psychology", "economics"}}};
  for (const Category& category : categories)
    for (const std::string_view word : category.words)
      if (subject.find(word) != std::string::npos) return category.name;
  return "Other";
}

ChoiceTask few_shot_task(const std::string& name, const std::vector<SubjectQuestion>& questions,
                         const std::vector<SubjectQuestion>& examples, std::int64_t shots, PromptStyle style,
                         std::int64_t limit) {
  std::set<std::string> scored;
  for (const SubjectQuestion& one : questions) scored.insert(asked(one, style));
  std::vector<SubjectQuestion> others;
  for (const SubjectQuestion& one : examples)
    if (!scored.contains(asked(one, style))) others.push_back(one);
  const auto before = introductions(by_subject(others), by_subject(questions), shots, style);
  ChoiceTask task{.name = name, .kind = ChoiceKind::kFewShot, .items = {}};
  task.file = questions.empty() ? "" : questions.front().file;
  std::map<std::string, std::int64_t> taken;
  for (const SubjectQuestion& one : questions) {
    if (limit > 0 && ++taken[one.subject] > limit) continue;
    ChoiceItem item{
        .line = one.line, .file = one.file, .choices = {}, .answer = one.right, .group = subject_category(one.subject)};
    for (const char* letter : kLetters)
      item.choices.push_back({before.at(one.subject) + asked(one, style), std::string(" ") + letter});
    task.items.push_back(std::move(item));
  }
  return task;
}

}  // namespace qat

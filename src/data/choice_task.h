// Questions with several answers to choose from, as the public test sets have them: one JSON object a line. The answer
// that a model takes is the one it finds likeliest as what a prompt goes on with.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "src/base/named_enum.h"

namespace qat {

// What a file is, by the keys of its first line:
//   boolq       question, passage, answer: true or false
//   hellaswag   endings, label, and ctx or (as published) activity_label, ctx_a, ctx_b
//   winogrande  sentence with one "_", option1, option2, answer: "1" or "2"
//   arc         question, choices: {text, label}, answerKey; ARC easy and challenge alike
//   openbookqa  question_stem, choices: {text, label}, answerKey
//   piqa        goal, sol1, sol2, label: 0 or 1
// A few-shot task is made of several files (src/data/few_shot_task.h).
enum class ChoiceKind : unsigned char { kBoolQ, kHellaSwag, kWinoGrande, kArc, kOpenBookQa, kPiqa, kFewShot };
template <>
struct EnumNames<ChoiceKind> {
  static constexpr std::array names{"boolq", "hellaswag", "winogrande", "arc", "openbookqa", "piqa", "few_shot"};
};

// How questions are put (docs/evaluation.md has every prompt).
//   harness: as EleutherAI's lm-evaluation-harness does
//   plain:   True or False, answers with their letters, WinoGrande's option in what is scored
enum class PromptStyle : unsigned char { kHarness, kPlain };
template <>
struct EnumNames<PromptStyle> {
  static constexpr std::array names{"harness", "plain"};
};

struct Choice {
  std::string context;  // what the model reads
  std::string text;     // what it is to go on with, with the blank between the two

  // Of the text without that blank, at least 1: what a log-likelihood per byte is divided by.
  std::int64_t bytes() const;
  friend bool operator==(const Choice&, const Choice&) = default;
};

struct ChoiceItem {
  int line = 0;      // of the file, from 1
  std::string file;  // empty: the task's
  std::vector<Choice> choices;
  std::size_t answer = 0;  // the right one
  std::string group;       // that figures are told apart by; empty: none
};

struct ChoiceTask {
  std::string name;  // what tables call it
  ChoiceKind kind = ChoiceKind::kBoolQ;
  std::string file;
  std::vector<ChoiceItem> items;
};

// The first `limit` items of a file; 0: all. Throws kData, naming file, line and key, for whatever is not as above, in
// the lines that are read, and for a file without any.
ChoiceTask read_choice_task(const std::string& name, const std::string& path, PromptStyle style, std::int64_t limit);

}  // namespace qat

// Questions of many subjects with four answers, put after examples of the same subject (MMLU, Hendrycks et al., 2021,
// arXiv:2009.03300). Examples come from files of their own, never from those that are scored.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/data/choice_task.h"

namespace qat {

// A question as MMLU's files have it: a row of six fields, question, four answers and the letter of the right one, in a
// .csv file <subject>_test.csv, _dev.csv or _val.csv; or an object with the keys question, subject, choices and answer,
// a number from 0 to 3, in a .jsonl file.
struct SubjectQuestion {
  std::string file;
  int line = 0;
  std::string subject;  // "high_school_physics"
  std::string question;
  std::vector<std::string> answers;  // 4
  std::size_t right = 0;
};

// Of several files, in their order. Throws kData, naming file, line and what was expected.
std::vector<SubjectQuestion> read_subject_questions(const std::vector<std::string>& files);

// "Humanities", "STEM", "Social" or "Other", by the words in a subject.
std::string subject_category(const std::string& subject);

// Every question after the first `shots` examples of its subject; its answers are the letters A to D. limit: questions
// of each subject; 0: all. An example that is one of the questions, too, is passed over. Throws kData for a subject
// without as many examples.
ChoiceTask few_shot_task(const std::string& name, const std::vector<SubjectQuestion>& questions,
                         const std::vector<SubjectQuestion>& examples, std::int64_t shots, PromptStyle style,
                         std::int64_t limit);

}  // namespace qat

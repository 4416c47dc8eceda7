// SQuAD files as tests write them.
#pragma once

#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/data/squad_file.h"
#include "tests/src/data/data_fixture.h"

namespace qat::testing {

struct WrittenQuestion {
  std::string id, text;
  std::vector<std::pair<std::string, int>> answers;  // text and its place in characters; none: impossible
};

// One paragraph. version 2 says of every question whether it is impossible.
inline Value paragraph(const std::string& context, const std::vector<WrittenQuestion>& questions, int version = 2) {
  Value qas = Value::array();
  for (const WrittenQuestion& question : questions) {
    Value answers = Value::array();
    for (const auto& [text, start] : question.answers)
      answers.push_back(Value::object({{"text", text}, {"answer_start", start}}));
    Value one = Value::object({{"id", question.id}, {"question", question.text}, {"answers", std::move(answers)}});
    if (version == 2) one.set("is_impossible", question.answers.empty());
    qas.push_back(std::move(one));
  }
  return Value::object({{"context", context}, {"qas", std::move(qas)}});
}

inline std::string squad_json(const std::vector<Value>& paragraphs) {
  return to_json(Value::object({{"version", "1.1"},
                                {"data", Value::array(std::vector<Value>{Value::object(
                                             {{"title", "T"}, {"paragraphs", Value::array(paragraphs)}})})}}),
                 1);
}

inline SquadData read_squad(const TemporaryFolder& folder, const std::vector<Value>& paragraphs) {
  SquadData data;
  add_squad_file(write_text(folder.file("squad.json"), squad_json(paragraphs)), data);
  return data;
}

}  // namespace qat::testing

// Questions that a language model answers in its own words, by going on with a prompt:
//
//   of a text (SQuAD's files)    Reading:"<context>"\n\nQuestion:"<question>"\n\nAnswer:
//   of nothing (TriviaQA's)      Question: <question>\nAnswer: <answer>\n\n for each example, then Question:
//   ..\nAnswer:
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/data/squad_file.h"
#include "src/text/tokenizer.h"

namespace qat {

// The prompt is before + context + after; of the context its end may be left out.
struct OpenQuestion {
  std::string id;
  std::string before, context, after;
  std::vector<std::string> right;  // answers; none: nothing is to be said
};

// All of a file's, in order.
std::vector<OpenQuestion> squad_prompts(const SquadData& data);

struct TriviaQuestion {
  std::string id, question, answer;
  std::vector<std::string> aliases;  // all that is right, the answer among them
};
// A file as TriviaQA publishes them, {"Data": [{"Question", "QuestionId", "Answer": {"Value", "Aliases"}}]}, or named
// *.jsonl, with {"question", "question_id", "answer": {"value", "aliases"}} a line, as the same on Hugging Face. The id
// may be missing. Throws kData, naming the file, the question and the key.
std::vector<TriviaQuestion> read_trivia(const std::string& path);
// The first `shots` examples that are none of the questions before every question. Throws kData for fewer.
std::vector<OpenQuestion> trivia_prompts(const std::vector<TriviaQuestion>& questions,
                                         const std::vector<TriviaQuestion>& examples, std::size_t shots);

struct PromptTokens {
  std::vector<int> tokens;
  bool shortened = false;  // the context's end is left out
};
// At most `most` tokens. The context is cut at the end of one of its tokens and of a character. Throws kData, naming
// the question, if what stands around it is longer than that alone.
PromptTokens prompt_tokens(const OpenQuestion& question, const Tokenizer& tokenizer, std::size_t most);

}  // namespace qat

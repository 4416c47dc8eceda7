// Where tokens come from. JSON section "data".
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "src/base/named_enum.h"

namespace qat {

enum class TokenizerKind : unsigned char { kByte, kGpt2 };
template <>
struct EnumNames<TokenizerKind> {
  static constexpr std::array names{"byte", "gpt2"};
};

struct DataConfig {
  // Training shards (.bin, llm.c layout; globs allowed), or exactly ["builtin"]: the text that comes with the system,
  // as bytes. A relative path is relative to the working folder. For model.task span_qa: SQuAD files, or made-up
  // questions.
  std::vector<std::string> train = {"builtin"};
  std::vector<std::string> val = {"builtin"};      // held-out shards, or ["builtin"]
  std::int64_t sequence_length = 128;              // tokens a sample predicts; at most model.n_positions
  TokenizerKind tokenizer = TokenizerKind::kByte;  // how text becomes tokens
  std::string merges;                              // of the tokenizer gpt2: merges.txt
  std::int64_t window_advance = 128;               // span_qa: tokens of a context between its windows
  std::int64_t question_tokens = 64;               // span_qa: of a question, at most
  bool allow_change = false;                       // go on from a checkpoint that other training tokens led to
};

}  // namespace qat

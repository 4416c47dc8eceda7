// Where tokens come from. JSON section "data".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

struct DataConfig {
  // Training shards (.bin, llm.c layout; globs allowed), or exactly ["builtin"]: the text that comes with the system,
  // as bytes. A relative path is relative to the working folder.
  std::vector<std::string> train = {"builtin"};
  std::vector<std::string> val = {"builtin"};  // held-out shards, or ["builtin"]
  std::int64_t sequence_length = 128;          // tokens a sample predicts; at most model.n_positions
  bool allow_change = false;                   // go on from a checkpoint that other training tokens led to
};

}  // namespace qat

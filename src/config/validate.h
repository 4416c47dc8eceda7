// Rules between keys, which no single key's range can state.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/config/run_config.h"

namespace qat {

// Ids of the built-in text: the bytes and the end of text.
inline constexpr std::int64_t kByteVocabulary = 257;

// What is wrong, or worth knowing, about one key's value in the light of others.
struct Finding {
  std::string path;               // the key: "train.micro_batch_size"
  std::string rule;               // "must divide train.batch_size; nearest: 4 or 8"
  std::vector<std::string> also;  // the other keys that the rule reads
  std::string element;            // of a list of objects: "[1].layers"; what `value` belongs to
  std::string value;              // of the element
  std::string unless_given;       // a key: who has given it a value means what this finding is about
};

struct Findings {
  std::vector<Finding> errors;
  std::vector<Finding> warnings;
};

// Everything that does not depend on the number of ranks. Each key is taken to be in its own range.
Findings cross_check(const RunConfig& config);

// The rules that depend on the number of ranks. Throws one Error(kConfig) with everything that is wrong and the nearest
// valid numbers.
void validate_parallel(const RunConfig& config, int world_size);

// The divisors of n next to x, ascending: {12} for n = 24, x = 12; {4, 8} for n = 32, x = 5. x need not be in 1..n.
std::vector<std::int64_t> nearest_divisors(std::int64_t n, std::int64_t x);

}  // namespace qat

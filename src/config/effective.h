// The configuration in force: as JSON, as a hash, and as text with the origin of every value.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "src/base/json.h"
#include "src/config/field.h"
#include "src/config/run_config.h"

namespace qat {

// Where a value came from.
struct Origin {
  enum class Kind : std::uint8_t { kDefault, kPreset, kFile, kSet };
  Kind kind = Kind::kDefault;
  std::string place;  // preset's name, "file:line"; empty otherwise

  std::string text() const;  // "default", "preset micro", "run.json:12", "--set"
};
using Origins = std::map<std::string, Origin>;  // by path; what is missing is a default

// Every key with its value, in the order of the table; loading it gives the same configuration.
Value config_to_json(const RunConfig& config);
// The value of one key, such as "train.steps".
Value config_value(const RunConfig& config, const std::string& path);
// An element of a list of objects, with every key.
template <ListedObject T>
Value element_to_json(T element);

// XXH3 over what the run computes: every value but run.dir, run.resume, model.preset (the sizes themselves count),
// the watchdog's and report's.
// Equal on every machine.
std::uint64_t config_hash(const RunConfig& config);

// A line per key: path, value, origin.
std::string print_config(const RunConfig& config, const Origins& origins);

}  // namespace qat

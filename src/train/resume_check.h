// What differs between two configurations, key by key: a checkpoint's and the one in force.
#pragma once

#include <string>
#include <vector>

namespace qat {

struct ConfigChange {
  std::string key;     // train.steps
  std::string before;  // JSON text in the checkpoint; empty: the key was not there
  std::string after;   // JSON text now; empty: the key is gone

  std::string text() const;  // "train.steps: 10 in the checkpoint, 20 now"
};

// Keys whose values differ; run.dir, run.resume, data.allow_change, parallel.* and where the model first came from are
// left out, the last not where both runs are looked at from_the_start.
std::vector<ConfigChange> config_changes(const std::string& checkpoint_json, const std::string& current_json,
                                         bool from_the_start = false);

// The changes that a resumed run goes on with, as lines for the log. Those that it cannot go on with are refused by
// check_structure (src/train/structure_check.h).
std::vector<std::string> resumed_changes(const std::string& checkpoint_json, const std::string& current_json);

}  // namespace qat

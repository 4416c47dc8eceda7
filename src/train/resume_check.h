// What a resumed run may change in its configuration, and what it may not.
#pragma once

#include <string>
#include <vector>

namespace qat {

struct ConfigChange {
  std::string key;     // train.steps
  std::string before;  // JSON text in the checkpoint; empty: the key was not there
  std::string after;   // JSON text now; empty: the key is gone
  bool fatal = false;  // the checkpoint's tensors do not fit
};

// Keys whose values differ; run.dir, run.resume, data.allow_change, parallel.* and where the model first came from are
// left out.
std::vector<ConfigChange> config_changes(const std::string& checkpoint_json, const std::string& current_json);

// Throws Error(kCheckpoint) with every fatal change; returns the others as log lines.
std::vector<std::string> check_resume(const std::string& checkpoint_json, const std::string& current_json);

}  // namespace qat

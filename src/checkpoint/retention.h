// How many checkpoints stay on disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "src/checkpoint/catalog.h"

namespace qat {

// Pure: which of `complete` (ascending step) go so that the newest `keep` stay, and those of the protected steps
// whatever their number: what a run stands on, the last one known to be healthy, the best. keep 0 keeps all.
std::vector<CheckpointInfo> select_expired(const std::vector<CheckpointInfo>& complete, int keep,
                                           const std::set<std::int64_t>& protected_steps);

struct Retention {
  std::vector<CheckpointInfo> removed;
  std::vector<std::string> failures;  // why some could not be removed: no reason to end a run
};

// Removes the expired ones below root, oldest first. Incomplete folders are neither counted nor touched.
Retention apply_retention(const std::filesystem::path& root, int keep, const std::set<std::int64_t>& protected_steps);

}  // namespace qat

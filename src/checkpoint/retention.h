// How many checkpoints stay on disk.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "src/checkpoint/catalog.h"

namespace qat {

// Pure: which of `complete` (ascending step) go so that the newest `keep` stay; keep 0 keeps all. The checkpoint of
// `protected_step`, the one just written, always stays, even where an abandoned continuation left newer steps.
std::vector<CheckpointInfo> select_expired(const std::vector<CheckpointInfo>& complete, int keep,
                                           std::int64_t protected_step);

// Removes the expired ones below root, oldest first, and returns them. Incomplete folders are neither counted nor
// touched.
std::vector<CheckpointInfo> apply_retention(const std::filesystem::path& root, int keep, std::int64_t protected_step);

}  // namespace qat

// Which checkpoints a folder holds. Layout: <run folder>/checkpoints/step_00000200/{checkpoint.h5,manifest.json};
// "root" below is the folder that holds the step_ folders.
//
// Names that begin with a dot belong to a save or removal in progress, or to one that was killed:
//   .tmp-step_X-<pid>    being written, or replaced by an exchange: dropped by sweep_leftovers()
//   .old-step_X-<pid>    moved aside while its successor takes the name: put back when the successor never did
//   .trash-step_X-<pid>  being removed: dropped
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace qat {

struct CheckpointInfo {
  std::filesystem::path folder;
  std::int64_t step = 0;
  std::int64_t bytes = 0;  // of all its files but the manifest
};

struct BrokenCheckpoint {
  std::filesystem::path folder;
  std::int64_t step = 0;
  std::string reason;
};

struct CheckpointScan {
  std::vector<CheckpointInfo> complete;  // ascending step
  std::vector<BrokenCheckpoint> broken;  // ascending step
};

inline constexpr char kTemporaryPrefix[] = ".tmp-";
inline constexpr char kAsidePrefix[] = ".old-";
inline constexpr char kTrashPrefix[] = ".trash-";

std::string step_folder_name(std::int64_t step);                         // step_00000200
std::string scratch_folder_name(const char* prefix, std::int64_t step);  // .tmp-step_00000200-<pid>

// Every step_ folder of root, by its manifest and the sizes of its files (no hashing). Empty when root is not there.
CheckpointScan scan_checkpoints(const std::filesystem::path& root);

// The complete ones, ascending step.
std::vector<CheckpointInfo> list_checkpoints(const std::filesystem::path& root);

struct Sweep {
  std::vector<std::filesystem::path> swept;  // folders that were dropped or put back, for the log
  std::vector<std::string> failures;         // why others could not be removed: no reason not to go on
};

// Clears up after saves and removals that were killed. Only for the process that owns the run folder: it would take a
// living writer's folder away.
Sweep sweep_leftovers(const std::filesystem::path& root);

// Takes a step_ folder out of sight in one rename, then deletes it.
void remove_checkpoint(const CheckpointInfo& checkpoint);

// The root that `path` means: a run folder's checkpoints/, or `path` itself.
std::filesystem::path checkpoints_root(const std::filesystem::path& path);

// Whether `path` is one checkpoint's folder, damaged or not, by its manifest or its name. Throws Error(kCheckpoint)
// when there is nothing of that name.
bool is_checkpoint_folder(const std::filesystem::path& path);

}  // namespace qat

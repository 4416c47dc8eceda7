// Checkpoints that no run goes on from any more, kept out of the way of "the newest":
//   <root>/abandoned/step_X   of a continuation that was given up for an earlier step
//   <root>/diverged/step_X    written while a run was coming apart
// Nothing deletes them but the user; each is a whole checkpoint that can still be named.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace qat {

inline constexpr char kAbandonedFolder[] = "abandoned";
inline constexpr char kDivergedFolder[] = "diverged";

// Moves every step_ folder of `first` and later, broken ones too, into root/<folder>, where one of the same name gets
// the next free number (step_X.2); returns the new places, ascending step. All of them or, if the process dies on the
// way, all of them once finish_moving_aside() has run. Throws Error(kCheckpoint).
std::vector<std::filesystem::path> move_aside(const std::filesystem::path& root, const char* folder,
                                              std::int64_t first);

// Ends what a killed move_aside() began. Only for the process that owns the run folder.
std::vector<std::filesystem::path> finish_moving_aside(const std::filesystem::path& root);

// Makes root/<name> a symbolic link to the checkpoint of `step`, in one rename.
void link_checkpoint(const std::filesystem::path& root, const char* name, std::int64_t step);

}  // namespace qat

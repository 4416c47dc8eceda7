#include "src/checkpoint/catalog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>
#include <system_error>

#include "kernels/common/error.h"
#include "src/checkpoint/durable_file.h"
#include "src/checkpoint/manifest.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kStepPrefix = "step_";

// The inverse of step_folder_name; nothing for any other name.
std::optional<std::int64_t> step_of_name(std::string_view name) {
  if (!name.starts_with(kStepPrefix)) return std::nullopt;
  const std::string_view digits = name.substr(kStepPrefix.size());
  std::int64_t step = 0;
  const auto [end, status] = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  if (status != std::errc{} || end != digits.data() + digits.size() || step < 0 || step_folder_name(step) != name) {
    return std::nullopt;
  }
  return step;
}

std::vector<fs::path> folders_of(const fs::path& root) {
  std::vector<fs::path> folders;
  std::error_code error;
  if (!fs::is_directory(root, error)) return folders;
  try {
    for (const fs::directory_entry& entry : fs::directory_iterator(root)) {
      // A folder that a living writer renames meanwhile is no error: it is seen under one name or the other.
      if (entry.is_directory(error)) folders.push_back(entry.path());
    }
  } catch (const fs::filesystem_error& failure) {
    throw Error(ErrorKind::kCheckpoint, fmt::format("cannot list {}: {}", root.string(), failure.code().message()));
  }
  return folders;
}

// ".old-step_00000200-4711" -> "step_00000200"; nothing when the name has another form.
std::optional<std::string> target_of_scratch(std::string_view name, std::string_view prefix) {
  if (!name.starts_with(prefix)) return std::nullopt;
  const std::string_view rest = name.substr(prefix.size());
  const std::string_view target = rest.substr(0, rest.rfind('-'));
  if (!step_of_name(target)) return std::nullopt;
  return std::string(target);
}

bool is_complete(const fs::path& folder) {
  try {
    (void)read_manifest(folder, /*hash=*/false);
    return true;
  } catch (const Error&) {
    return false;
  }
}

void drop(const fs::path& folder) {
  std::error_code error;
  fs::remove_all(folder, error);
  if (error) {
    throw Error(ErrorKind::kCheckpoint, fmt::format("cannot remove {}: {}", folder.string(), error.message()));
  }
}

}  // namespace

std::string step_folder_name(std::int64_t step) { return fmt::format("{}{:08d}", kStepPrefix, step); }

std::string scratch_folder_name(const char* prefix, std::int64_t step) {
  return fmt::format("{}{}-{}", prefix, step_folder_name(step), ::getpid());
}

CheckpointScan scan_checkpoints(const fs::path& root) {
  CheckpointScan scan;
  for (const fs::path& folder : folders_of(root)) {
    const std::optional<std::int64_t> step = step_of_name(folder.filename().string());
    if (!step) continue;
    try {
      const Manifest manifest = read_manifest(folder, /*hash=*/false);
      if (manifest.step != *step) {
        throw Error(ErrorKind::kCheckpoint,
                    fmt::format("{}: its manifest is of step {}", folder.string(), manifest.step));
      }
      scan.complete.push_back({folder, *step, manifest.bytes()});
    } catch (const Error& error) {
      scan.broken.push_back({folder, *step, error.what()});
    }
  }
  const auto by_step = [](const auto& a, const auto& b) { return a.step < b.step; };
  std::sort(scan.complete.begin(), scan.complete.end(), by_step);
  std::sort(scan.broken.begin(), scan.broken.end(), by_step);
  return scan;
}

std::vector<CheckpointInfo> list_checkpoints(const fs::path& root) { return scan_checkpoints(root).complete; }

Sweep sweep_leftovers(const fs::path& root) {
  Sweep sweep;
  const auto drop_if_possible = [&](const fs::path& folder) {
    try {
      drop(folder);
      sweep.swept.push_back(folder);
    } catch (const Error& error) {
      sweep.failures.emplace_back(error.what());
    }
  };
  for (const fs::path& folder : folders_of(root)) {
    const std::string name = folder.filename().string();
    const std::optional<std::string> aside_of = target_of_scratch(name, kAsidePrefix);
    if (aside_of && is_complete(folder) && !is_complete(root / *aside_of)) {
      const fs::path in_the_way = move_into_place(folder, root / *aside_of, root / (kTrashPrefix + *aside_of + "-0"));
      sweep.swept.push_back(folder);
      if (!in_the_way.empty()) drop_if_possible(in_the_way);
    } else if (aside_of || target_of_scratch(name, kTemporaryPrefix) || target_of_scratch(name, kTrashPrefix)) {
      drop_if_possible(folder);
    }
  }
  if (!sweep.swept.empty()) sync_to_disk(root);
  return sweep;
}

void remove_checkpoint(const CheckpointInfo& checkpoint) {
  const fs::path trash = checkpoint.folder.parent_path() / scratch_folder_name(kTrashPrefix, checkpoint.step);
  std::error_code error;
  fs::remove_all(trash, error);  // an earlier removal of the same step that did not finish
  fs::rename(checkpoint.folder, trash, error);
  if (error) {
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("cannot remove {}: {}", checkpoint.folder.string(), error.message()));
  }
  drop(trash);
}

fs::path checkpoints_root(const fs::path& path) {
  std::error_code error;
  return fs::is_directory(path / "checkpoints", error) ? path / "checkpoints" : path;
}

bool is_checkpoint_folder(const fs::path& path) {
  std::error_code error;
  if (!fs::exists(path, error)) {
    throw Error(ErrorKind::kCheckpoint, fmt::format("{}: no such folder; expected a checkpoint folder, a run folder or "
                                                    "its checkpoints folder",
                                                    path.string()));
  }
  return fs::exists(path / kManifestName, error) || step_of_name(path.filename().string()).has_value();
}

}  // namespace qat

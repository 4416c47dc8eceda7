// manifest.json, the last file written into a checkpoint folder: which files belong to it, their sizes and hashes. A
// folder without a manifest that parses and matches is not a checkpoint.
//
// Versions: 1 has all tensors in checkpoint.h5; 2 has rank_<number>.h5 beside it, and keys that a reader does not know
// are no error, so that later programs may add some. A change that a reader must know of gets a new version.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace qat {

inline constexpr char kManifestName[] = "manifest.json";
inline constexpr char kCheckpointFileName[] = "checkpoint.h5";  // shows every tensor whole
inline constexpr std::int64_t kManifestVersion = 2;             // written; 1 is read too

struct ManifestFile {
  std::string name;  // inside the folder
  std::int64_t bytes = 0;
  std::uint64_t xxh3 = 0;
  bool operator==(const ManifestFile&) const = default;
};

struct Manifest {
  std::int64_t step = 0;
  std::vector<ManifestFile> files;
  std::int64_t bytes() const noexcept;
  bool operator==(const Manifest&) const = default;
};

std::string to_json(const Manifest& manifest);

// `source` is named in the Error(kCheckpoint) that anything but a manifest of version 1 or 2 causes.
Manifest parse_manifest(std::string_view text, const std::filesystem::path& source);

// Reads folder/manifest.json and checks that every file of it is there with its size; with `hash`, also its content.
// Throws Error(kCheckpoint) with what is wrong.
Manifest read_manifest(const std::filesystem::path& folder, bool hash);

}  // namespace qat

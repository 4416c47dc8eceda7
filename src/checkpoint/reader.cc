#include "src/checkpoint/reader.h"

#include <fmt/format.h>

#include <algorithm>

#include "src/checkpoint/manifest.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// Other sound checkpoints beside a bad one: the next thing to try.
std::string advice(const fs::path& folder) {
  std::string names;
  for (const CheckpointInfo& other : list_checkpoints(fs::absolute(folder).parent_path())) {
    if (other.folder.filename() != folder.filename()) names += fmt::format(" {}", other.folder.filename().string());
  }
  return names.empty() ? "no other complete checkpoint lies beside it"
                       : "complete checkpoints beside it, to resume from instead:" + names;
}

}  // namespace

CheckpointReader CheckpointReader::open(const fs::path& folder, const ReadOptions& options) {
  try {
    const Manifest manifest = read_manifest(folder, options.verify_hash);
    H5File file = H5File::open(folder / kCheckpointFileName);
    CheckpointReader reader({folder, manifest.step, manifest.bytes()}, std::move(file));
    if (const auto step = reader.attribute<std::int64_t>("/", "step"); step != manifest.step) {
      throw Error(ErrorKind::kCheckpoint, fmt::format("{} is of step {}, {} of step {}", kCheckpointFileName, step,
                                                      kManifestName, manifest.step));
    }
    return reader;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("cannot load the checkpoint {}: {}; {}", folder.string(), error.what(), advice(folder)));
  }
}

void CheckpointReader::read_tensor(std::string_view name, const Shape& shape, BufferView out) const {
  file_.read_dataset(name, shape, out);
}

void CheckpointReader::throw_wrong_type(const TensorInfo& found, DType expected) const {
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("{}: tensor {}: expected {}, found {}", file_.path().string(), found.name,
                          describe(expected, found.shape), describe(found.dtype, found.shape)));
}

std::optional<CheckpointReader> open_newest_valid(const fs::path& path,
                                                  const std::function<void(const std::string&)>& warn,
                                                  const ReadOptions& options) {
  const fs::path root = checkpoints_root(path);
  const CheckpointScan scan = scan_checkpoints(root);
  struct Candidate {
    fs::path folder;
    std::int64_t step;
  };
  std::vector<Candidate> candidates;
  for (const CheckpointInfo& info : scan.complete) candidates.push_back({info.folder, info.step});
  for (const BrokenCheckpoint& broken : scan.broken) candidates.push_back({broken.folder, broken.step});
  if (candidates.empty()) return std::nullopt;
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.step > b.step; });
  std::string reasons;
  for (const Candidate& candidate : candidates) {
    try {
      return CheckpointReader::open(candidate.folder, options);
    } catch (const Error& error) {
      if (options.strict || error.kind() != ErrorKind::kCheckpoint) throw;
      warn(fmt::format("passing over a checkpoint: {}", error.what()));
      reasons += fmt::format("\n  {}", error.what());
    }
  }
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("{}: none of the {} checkpoints can be loaded. Move them away to start "
                          "afresh, or restore one from a copy:{}",
                          root.string(), candidates.size(), reasons));
}

}  // namespace qat

#include "src/checkpoint/reader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "src/checkpoint/manifest.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMostAdvised = 3;  // each is read whole to be sure of it
constexpr int kMostListings = 200;
constexpr int kListingsOfNothing = 3;  // an entry that is renamed while a folder is listed may be missed
constexpr std::chrono::milliseconds kBetweenListings{5};

bool is_sound(const fs::path& folder) {
  try {
    (void)read_manifest(folder, /*hash=*/true);
    return true;
  } catch (const Error&) {
    return false;
  }
}

// Sound checkpoints beside a bad one, the newest first: the next thing to try.
std::string advice(const fs::path& folder) {
  std::vector<CheckpointInfo> others = list_checkpoints(fs::absolute(folder).parent_path());
  std::vector<std::string> names;
  for (auto other = others.rbegin(); other != others.rend() && names.size() < kMostAdvised; ++other) {
    const fs::path name = other->folder.filename();
    if (name != folder.filename() && is_sound(other->folder)) names.push_back(name.string());
  }
  return names.empty() ? "no other complete checkpoint lies beside it"
                       : fmt::format("complete checkpoints beside it, to take instead: {}", fmt::join(names, " "));
}

// What a name stands for at the moment: another folder of the same name differs.
struct Identity {
  dev_t device = 0;
  ino_t inode = 0;  // 0: there is nothing of that name
  bool operator==(const Identity&) const = default;
};

Identity identity(const fs::path& folder) {
  struct stat info {};
  return ::stat(folder.c_str(), &info) == 0 ? Identity{info.st_dev, info.st_ino} : Identity{};
}

struct Candidate {
  fs::path folder;
  std::int64_t step = 0;
};

// Every step_ folder, the newest first, whole or not.
std::vector<Candidate> list_candidates(const fs::path& root) {
  const CheckpointScan scan = scan_checkpoints(root);
  std::vector<Candidate> candidates;
  for (const CheckpointInfo& info : scan.complete) candidates.push_back({info.folder, info.step});
  for (const BrokenCheckpoint& broken : scan.broken) candidates.push_back({broken.folder, broken.step});
  std::sort(candidates.begin(), candidates.end(),
            [](const Candidate& a, const Candidate& b) { return a.step > b.step; });
  return candidates;
}

struct PassedOver {
  std::int64_t step;
  std::string reason;
};

// One walk through a listing.
struct Walk {
  std::optional<CheckpointReader> found;
  std::vector<PassedOver> passed;
  bool outdated = false;  // a folder is not what was listed any more
};

Walk walk(const std::vector<Candidate>& candidates, const ReadOptions& options) {
  Walk result;
  for (const Candidate& candidate : candidates) {
    const Identity before = identity(candidate.folder);
    try {
      result.found.emplace(CheckpointReader::open_plainly(candidate.folder, options));
      return result;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kCheckpoint) throw;
      result.outdated = before.inode == 0 || identity(candidate.folder) != before;
      if (result.outdated) return result;
      if (options.strict) throw Error(error.kind(), fmt::format("{}; {}", error.what(), advice(candidate.folder)));
      result.passed.push_back({candidate.step, error.what()});
    }
  }
  return result;
}

}  // namespace

CheckpointReader CheckpointReader::open(const fs::path& folder, const ReadOptions& options) {
  try {
    return open_plainly(folder, options);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kCheckpoint) throw;
    throw Error(ErrorKind::kCheckpoint, fmt::format("{}; {}", error.what(), advice(folder)));
  }
}

CheckpointReader CheckpointReader::open_plainly(const fs::path& folder, const ReadOptions& options) {
  try {
    CheckpointReader reader(folder, read_manifest(folder, options.verify_hash));
    reader.require_step(reader.file_);
    if (options.hold_files)
      for (const ManifestFile& file : reader.manifest_.files)
        if (file.name != kCheckpointFileName) (void)reader.shard(file.name);
    return reader;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("cannot load the checkpoint {}: {}", folder.string(), error.what()));
  }
}

CheckpointReader::CheckpointReader(const fs::path& folder, Manifest manifest)
    : info_{folder, manifest.step, manifest.bytes()},
      manifest_(std::move(manifest)),
      file_(H5File::open(folder / kCheckpointFileName)) {}

// Folders can be put together by hand, of files of several saves.
void CheckpointReader::require_step(const H5File& file) const {
  const Attribute step = file.attribute("/", "step");
  const std::int64_t* found = std::get_if<std::int64_t>(&step);
  if (found == nullptr || *found != info_.step)
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("{} is of step {}, {} of step {}", file.path().filename().string(),
                            found == nullptr ? "?" : std::to_string(*found), kManifestName, info_.step));
}

const H5File& CheckpointReader::shard(const std::string& name) const {
  if (const auto open = shards_.find(name); open != shards_.end()) return open->second;
  const auto listed = [&](const ManifestFile& file) { return file.name == name && name != kCheckpointFileName; };
  if (std::none_of(manifest_.files.begin(), manifest_.files.end(), listed))
    throw Error(ErrorKind::kCheckpoint, fmt::format("{}: its tensors lie in {}, which {} does not list",
                                                    file_.path().string(), name, kManifestName));
  const H5File& file = shards_.emplace(name, H5File::open(info_.folder / name)).first->second;
  require_step(file);
  return file;
}

void CheckpointReader::read_elements(std::string_view name, const Shape& shape, std::int64_t first,
                                     BufferView out) const {
  const std::vector<VirtualPart> parts = file_.virtual_parts(name);
  if (parts.empty()) return file_.read_elements(name, shape, first, out);
  if (const TensorInfo found = tensor_info(name); found.dtype != out.dtype || found.shape != shape)
    throw_different(found, out.dtype, shape);
  QAT_CHECK(first >= 0 && out.elems >= 0 && first <= element_count(shape) - out.elems,
            std::string(name) + ": the buffer does not fit");
  auto* const bytes = static_cast<std::byte*>(out.data);
  for (const VirtualPart& part : parts) {
    const std::int64_t begin = std::max(first, part.first);
    const std::int64_t end = std::min(first + out.elems, part.first + part.elems);
    if (begin >= end) continue;
    shard(part.file).read_axis(
        part.dataset, part.source_first + begin - part.first,
        {bytes + static_cast<std::size_t>(begin - first) * size_of(out.dtype), end - begin, out.dtype});
  }
}

void CheckpointReader::read_tensor(std::string_view name, const Shape& shape, BufferView out) const {
  QAT_CHECK(element_count(shape) == out.elems, std::string(name) + ": the buffer does not fit");
  read_elements(name, shape, /*first=*/0, out);
}

void CheckpointReader::throw_different(const TensorInfo& found, DType expected, const Shape& shape) const {
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("{}: tensor {}: expected {}, found {}", file_.path().string(), found.name,
                          describe(expected, shape), describe(found.dtype, found.shape)));
}

std::optional<CheckpointReader> open_newest_valid(const fs::path& path,
                                                  const std::function<void(const std::string&)>& warn,
                                                  const ReadOptions& options) {
  const fs::path root = checkpoints_root(path);
  for (int listing = 1;; ++listing) {
    const std::vector<Candidate> candidates = list_candidates(root);
    if (candidates.empty() && (listing >= kListingsOfNothing || !fs::exists(root))) return std::nullopt;
    Walk result = walk(candidates, options);
    if (result.found) {
      for (const PassedOver& passed : result.passed)
        warn(fmt::format("passing over step {}, taking step {} in its place: {}", passed.step,
                         result.found->info().step, passed.reason));
      return std::move(result.found);
    }
    if (!result.outdated && !candidates.empty()) {
      std::string reasons;
      for (const PassedOver& passed : result.passed) reasons += "\n  " + passed.reason;
      throw Error(ErrorKind::kCheckpoint,
                  fmt::format("{}: none of the {} checkpoints can be loaded. Move them away to start "
                              "afresh, or restore one from a copy:{}",
                              root.string(), candidates.size(), reasons));
    }
    if (listing == kMostListings)
      throw Error(ErrorKind::kCheckpoint,
                  fmt::format("{}: the checkpoints come and go faster than one can be opened; name one of them, or "
                              "keep more of them (checkpoint.keep)",
                              root.string()));
    std::this_thread::sleep_for(kBetweenListings);
  }
}

CheckpointReader open_checkpoint(const fs::path& path, const std::function<void(const std::string&)>& warn,
                                 const ReadOptions& options) {
  if (is_checkpoint_folder(path)) return CheckpointReader::open(path, options);
  if (auto newest = open_newest_valid(path, warn, options)) return std::move(*newest);
  throw Error(ErrorKind::kCheckpoint, fmt::format("{}: no checkpoint there (no {}, no step_* folder); name a "
                                                  "checkpoint folder, a run folder or its checkpoints folder",
                                                  checkpoints_root(path).string(), kManifestName));
}

}  // namespace qat

#include "src/checkpoint/aside.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "kernels/common/error.h"
#include "src/checkpoint/catalog.h"
#include "src/checkpoint/durable_file.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// While a move is under way: .aside-<folder>-<first step>, an empty file.
constexpr std::string_view kMarkerPrefix = ".aside-";

fs::path marker_of(const fs::path& root, const char* folder, std::int64_t first) {
  return root / fmt::format("{}{}-{}", kMarkerPrefix, folder, first);
}

[[noreturn]] void fail(const char* what, const fs::path& path, const std::error_code& error) {
  throw Error(ErrorKind::kCheckpoint, fmt::format("cannot {} {}: {}", what, path.string(), error.message()));
}

fs::path free_name(const fs::path& place) {
  std::error_code error;
  if (!fs::exists(fs::symlink_status(place, error))) return place;
  for (int number = 2;; ++number) {
    const fs::path next = place.string() + fmt::format(".{}", number);
    if (!fs::exists(fs::symlink_status(next, error))) return next;
  }
}

std::vector<fs::path> move_all(const fs::path& root, const char* folder, std::int64_t first) {
  const CheckpointScan scan = scan_checkpoints(root);
  std::vector<std::pair<std::int64_t, fs::path>> leaving;
  for (const CheckpointInfo& info : scan.complete) leaving.emplace_back(info.step, info.folder);
  for (const BrokenCheckpoint& broken : scan.broken) leaving.emplace_back(broken.step, broken.folder);
  std::erase_if(leaving, [first](const auto& one) { return one.first < first; });
  std::sort(leaving.begin(), leaving.end());
  if (leaving.empty()) return {};
  const fs::path aside = root / folder;
  std::error_code error;
  fs::create_directories(aside, error);
  if (error) fail("make", aside, error);
  std::vector<fs::path> places;
  for (const auto& [step, from] : leaving) {
    const fs::path to = free_name(aside / from.filename());
    fs::rename(from, to, error);
    if (error) fail("move aside", from, error);
    places.push_back(to);
  }
  sync_to_disk(aside);
  sync_to_disk(root);
  return places;
}

}  // namespace

std::vector<fs::path> move_aside(const fs::path& root, const char* folder, std::int64_t first) {
  std::error_code error;
  if (!fs::is_directory(root, error)) return {};
  const fs::path marker = marker_of(root, folder, first);
  fs::remove(marker, error);
  write_file_durably(marker, "");
  sync_to_disk(root);
  std::vector<fs::path> places = move_all(root, folder, first);
  fs::remove(marker, error);
  if (error) fail("remove", marker, error);
  return places;
}

std::vector<fs::path> finish_moving_aside(const fs::path& root) {
  std::error_code error;
  std::vector<fs::path> places;
  if (!fs::is_directory(root, error)) return places;
  for (const char* folder : {kAbandonedFolder, kDivergedFolder}) {
    const std::string prefix = fmt::format("{}{}-", kMarkerPrefix, folder);
    std::optional<std::int64_t> lowest;
    std::vector<fs::path> markers;
    for (const fs::directory_entry& entry : fs::directory_iterator(root, error)) {
      const std::string name = entry.path().filename().string();
      if (!name.starts_with(prefix)) continue;
      std::int64_t first = 0;
      const auto [end, status] = std::from_chars(name.data() + prefix.size(), name.data() + name.size(), first);
      if (status != std::errc{} || end != name.data() + name.size()) continue;
      lowest = lowest ? std::min(*lowest, first) : first;
      markers.push_back(entry.path());
    }
    if (!lowest) continue;
    for (fs::path& place : move_all(root, folder, *lowest)) places.push_back(std::move(place));
    for (const fs::path& marker : markers) fs::remove(marker, error);
  }
  return places;
}

void link_checkpoint(const fs::path& root, const char* name, std::int64_t step) {
  const fs::path link = root / name;
  const fs::path fresh = root / fmt::format(".link-{}-{}", name, ::getpid());
  std::error_code error;
  fs::remove(fresh, error);
  fs::create_directory_symlink(step_folder_name(step), fresh, error);
  if (error) fail("make the link", fresh, error);
  fs::rename(fresh, link, error);
  if (error) fail("make the link", link, error);
}

}  // namespace qat

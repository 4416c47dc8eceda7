#include "launch/earlier_run.h"

#include <fmt/format.h>

#include <vector>

#include "launch/refuse.h"
#include "src/base/file.h"
#include "src/base/json.h"
#include "src/config/effective.h"
#include "src/config/loader.h"
#include "src/train/resume_check.h"

namespace qat::launch {
namespace {

bool changes_results(const ConfigChange& change) {
  // A key that only one of two versions of this program knows has its default.
  if (change.before.empty() || change.after.empty()) return false;
  return !change.key.starts_with("checkpoint.") && change.key != "train.log_every";
}

std::vector<ConfigChange> changes_since(const std::filesystem::path& file, const std::string& now) {
  const std::string before = read_file(file, ErrorKind::kConfig);
  try {
    return config_changes(before, now, /*from_the_start=*/true);
  } catch (const Error& error) {
    throw Error(ErrorKind::kConfig,
                fmt::format("{}: what this run was made with cannot be read ({}): remove its folder, "
                            "or name another",
                            file.string(), error.what()));
  }
}

}  // namespace

void require_same_configuration(const std::filesystem::path& dir, const std::optional<std::filesystem::path>& config,
                                const std::vector<std::string>& sets, const std::string& what,
                                const std::string& ours) {
  const std::filesystem::path file = dir / "config.json";
  if (!std::filesystem::exists(file)) return;
  std::string lines;
  const std::string now = to_json(config_to_json(load_run_config(config, sets).config));
  for (const ConfigChange& change : changes_since(file, now))
    if (changes_results(change))
      lines += fmt::format("\n  {}: {} there, {} now", change.key, change.before, change.after);
  if (!lines.empty())
    refuse(
        fmt::format("{}: {} has a run of another configuration:{}\n  set these keys as they are there, give {} another "
                    "folder, or remove this one",
                    what, dir.string(), lines, ours));
}

}  // namespace qat::launch

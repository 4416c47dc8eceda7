#include "src/config/sweep_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <set>

#include "src/base/file.h"
#include "src/base/json.h"
#include "src/config/loader.h"

namespace qat {
namespace {

constexpr std::size_t kMostRuns = 10'000;

[[noreturn]] void fail(const Value& at, const std::string& what) {
  throw Error(ErrorKind::kConfig, fmt::format("{}: {}", at.where(), what));
}

// As --set takes it.
std::string set_text(const Value& value) { return value.is_string() ? value.as_string() : to_json(value); }

// What may stand in a folder's name on any file system, and in a shell without quotes.
std::string file_name(const std::string& text) {
  std::string name;
  for (const char c : text) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       std::string_view("_-+.=,").find(c) != std::string_view::npos;
    name.push_back(plain ? c : '_');
  }
  return name;
}

void check_keys(const Value& root) {
  for (const Value::Member& member : root.as_object())
    if (member.key != "config" && member.key != "runs_dir" && member.key != "set" && member.key != "fixed")
      throw Error(ErrorKind::kConfig,
                  fmt::format("{}: unknown key \"{}\" in a sweep: expected config, runs_dir, set or "
                              "fixed",
                              root.where(member.line), member.key));
}

void check_varied(const Value& set) {
  if (set.as_object().empty()) fail(set, "set is empty: expected keys with the list of their values");
  std::size_t runs = 1;
  for (const Value::Member& member : set.as_object()) {
    if (member.key == "run.dir") fail(set, "set.run.dir: a sweep gives every run a folder of its own, below runs_dir");
    if (!member.value.is_array() || member.value.as_array().empty())
      fail(member.value, fmt::format("set.{}: expected a list of values", member.key));
    runs *= member.value.as_array().size();
    if (runs > kMostRuns) fail(set, fmt::format("set: more than {} combinations", kMostRuns));
  }
}

SweepRun run_of(const SweepPlan& sweep, const std::vector<const Value*>& chosen,
                const std::vector<std::string>& fixed) {
  SweepRun run{.sets = fixed};
  for (std::size_t i = 0; i < chosen.size(); ++i) {
    const std::string text = set_text(*chosen[i]);
    run.values.emplace_back(sweep.keys[i], text);
    run.sets.push_back(sweep.keys[i] + "=" + text);
    run.name += (i == 0 ? "" : ",") + file_name(sweep.keys[i] + "=" + text);
  }
  run.dir = sweep.runs_dir / run.name;
  run.sets.push_back("run.dir=" + run.dir.string());
  return run;
}

// Every run's configuration is read now: a key that is wrong must not show after hours.
void check_runs(const SweepPlan& sweep, const Value& set) {
  std::set<std::string> names;
  for (const SweepRun& run : sweep.runs) {
    if (run.name.size() > 200)
      fail(set, fmt::format("the values of a run make too long a name for its folder: {}...", run.name.substr(0, 80)));
    if (!names.insert(run.name).second) fail(set, fmt::format("two runs are the same: {}", run.name));
    try {
      const auto file = sweep.config.empty() ? std::nullopt : std::optional(sweep.config);
      load_run_config(file, run.sets);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("run {} of the sweep: {}", run.name, error.what()));
    }
  }
}

}  // namespace

SweepPlan read_sweep(const std::filesystem::path& file, const std::vector<std::string>& more) {
  const Value root = parse_json(read_file(file, ErrorKind::kConfig), file.string());
  check_keys(root);
  SweepPlan sweep;
  if (const Value* config = root.find("config")) sweep.config = config->as_string();
  sweep.runs_dir = root.at("runs_dir").as_string();
  std::vector<std::string> fixed;
  if (const Value* keys = root.find("fixed"))
    for (const Value::Member& member : keys->as_object()) fixed.push_back(member.key + "=" + set_text(member.value));
  fixed.insert(fixed.end(), more.begin(), more.end());

  const Value& set = root.at("set");
  check_varied(set);
  const Value::Object& varied = set.as_object();
  for (const Value::Member& member : varied) sweep.keys.push_back(member.key);
  std::vector<std::size_t> at(varied.size(), 0);
  while (true) {
    std::vector<const Value*> chosen;
    for (std::size_t i = 0; i < varied.size(); ++i) chosen.push_back(&varied[i].value.as_array()[at[i]]);
    sweep.runs.push_back(run_of(sweep, chosen, fixed));
    std::size_t key = varied.size();
    while (key > 0 && ++at[key - 1] == varied[key - 1].value.as_array().size()) at[--key] = 0;
    if (key == 0) break;
  }
  check_runs(sweep, set);
  return sweep;
}

}  // namespace qat

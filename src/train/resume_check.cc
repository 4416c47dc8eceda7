#include "src/train/resume_check.h"

#include <fmt/format.h>

#include <map>
#include <string_view>

#include "src/base/json.h"

namespace qat {
namespace {

bool ignored(std::string_view key, bool from_the_start) {
  if (key == "parallel.transfer") return false;
  if (key.starts_with("model.init")) return !from_the_start;
  return key == "run.dir" || key == "run.resume" || key.starts_with("parallel.") || key.starts_with("watchdog.") ||
         key.starts_with("report.") || key == "comm.overlap" || key == "comm.self_check" || key == "compute.device" ||
         key == "compute.recompute" || key == "model.preset" || key == "data.allow_change";
}

void flatten(const Value& value, const std::string& path, std::map<std::string, std::string>& out) {
  if (!value.is_object()) {
    out[path] = to_json(value);
    return;
  }
  for (const Value::Member& member : value.as_object())
    flatten(member.value, path.empty() ? member.key : path + "." + member.key, out);
}

std::map<std::string, std::string> flat(const std::string& json, const char* source) {
  std::map<std::string, std::string> out;
  flatten(parse_json(json, source, ErrorKind::kCheckpoint), "", out);
  return out;
}

}  // namespace

std::string ConfigChange::text() const {
  const auto shown = [](const std::string& value) { return value.empty() ? std::string("(not there)") : value; };
  return fmt::format("{}: {} in the checkpoint, {} now", key, shown(before), shown(after));
}

std::vector<ConfigChange> config_changes(const std::string& checkpoint_json, const std::string& current_json,
                                         bool from_the_start) {
  const auto before = flat(checkpoint_json, "the checkpoint's configuration");
  const auto after = flat(current_json, "the current configuration");
  std::vector<ConfigChange> changes;
  const auto compare = [&](const std::string& key) {
    if (ignored(key, from_the_start)) return;
    const auto old = before.find(key), now = after.find(key);
    const std::string old_text = old == before.end() ? "" : old->second,
                      now_text = now == after.end() ? "" : now->second;
    if (old_text == now_text) return;
    changes.push_back({.key = key, .before = old_text, .after = now_text});
  };
  for (const auto& [key, text] : after) compare(key);
  for (const auto& [key, text] : before)
    if (!after.contains(key)) compare(key);
  return changes;
}

std::vector<std::string> resumed_changes(const std::string& checkpoint_json, const std::string& current_json) {
  std::vector<std::string> lines;
  for (const ConfigChange& change : config_changes(checkpoint_json, current_json))
    lines.push_back("resuming with a changed configuration: " + change.text());
  return lines;
}

}  // namespace qat

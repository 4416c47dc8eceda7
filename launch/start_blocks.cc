#include "launch/start_blocks.h"

#include <fmt/format.h>

#include "src/base/json.h"
#include "src/config/field_table.h"

namespace qat::launch {
namespace {

constexpr std::size_t kLineWidth = 110;

}  // namespace

std::string start_block(const std::string& name, const std::vector<std::string>& lines) {
  std::string text = "[" + name + "]";
  for (const std::string& line : lines) text += "\n  " + line;
  return text;
}

std::vector<std::string> changed_options(const LoadResult& loaded) {
  const RunConfig standard;
  std::vector<std::string> lines;
  for (const auto& field : run_fields()) {
    const Value value = config_value(loaded.config, field.path);
    if (value == config_value(standard, field.path)) continue;
    const auto origin = loaded.origins.find(field.path);
    // What a preset fills in, it says itself.
    if (origin != loaded.origins.end() && origin->second.kind == Origin::Kind::kPreset) continue;
    const std::string option = fmt::format("{}={}", field.path, value.is_string() ? value.as_string() : to_json(value));
    if (lines.empty() || lines.back().size() + option.size() + 2 > kLineWidth)
      lines.push_back(option);
    else
      lines.back() += "  " + option;
  }
  if (lines.empty()) lines.emplace_back("all at their defaults");
  return lines;
}

}  // namespace qat::launch

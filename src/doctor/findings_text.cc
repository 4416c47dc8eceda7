#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "src/doctor/findings.h"

namespace qat {

bool has_fault(std::span<const MachineFinding> findings) {
  return std::any_of(findings.begin(), findings.end(),
                     [](const MachineFinding& one) { return one.level == FindingLevel::kFault; });
}

std::string to_text(std::span<const MachineFinding> findings, std::span<const RankFacts> facts) {
  std::string text =
      fmt::format("qat_dist doctor on {}, {} rank{}\n", facts.front().host, facts.size(), facts.size() == 1 ? "" : "s");
  std::map<FindingLevel, int> counts;
  for (const MachineFinding& one : findings) {
    ++counts[one.level];
    text += fmt::format("{:<8} {:<14} {}\n", enum_name(one.level), one.topic, one.text);
    if (!one.fix.empty()) text += fmt::format("{:<23} -> {}\n", "", one.fix);
  }
  return text + fmt::format("{} ok, {} warnings, {} faults\n", counts[FindingLevel::kOk],
                            counts[FindingLevel::kWarning], counts[FindingLevel::kFault]);
}

Value to_value(std::span<const MachineFinding> findings) {
  Value all = Value::array();
  for (const MachineFinding& one : findings)
    all.push_back(Value::object(
        {{"level", std::string(enum_name(one.level))}, {"topic", one.topic}, {"text", one.text}, {"fix", one.fix}}));
  return all;
}

}  // namespace qat

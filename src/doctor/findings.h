// What the facts of a machine mean for a run: ok, worth a look, or in the way, and what to do about it.
#pragma once

#include <array>
#include <span>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/base/named_enum.h"
#include "src/doctor/facts.h"

namespace qat {

enum class FindingLevel : unsigned char { kOk, kWarning, kFault };
template <>
struct EnumNames<FindingLevel> {
  static constexpr std::array names{"ok", "warning", "fault"};
};

struct MachineFinding {
  FindingLevel level = FindingLevel::kOk;
  std::string topic;  // "clocks"
  std::string text;   // what was found, and where
  std::string fix;    // what to do; empty where it is ok
};

// At least one for each topic that concerns these ranks, in a fixed order. facts: of every rank, in their order.
std::vector<MachineFinding> judge(std::span<const RankFacts> facts, const LinkFacts& links);

bool has_fault(std::span<const MachineFinding> findings);

// A screen: one line a finding, the fix below it, and how many there are of what.
std::string to_text(std::span<const MachineFinding> findings, std::span<const RankFacts> facts);
Value to_value(std::span<const MachineFinding> findings);

}  // namespace qat

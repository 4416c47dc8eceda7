// Plans of steps by their widths, each of which may say what the next one begins with.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "dist/control/step_plan.h"

namespace qat::test {

// The widths of a step's updates, each of one pass or more.
using StepWidths = std::vector<std::vector<int>>;

// Steps that stay at a width and leave it, with updates of several passes, and more of them than travel as codes.
inline const std::vector<StepWidths> kManyWidths = {{{8}},         {{8}},           {{2}},      {{32, 4}},
                                                    {{4}, {4, 8}}, {{2, 4, 8, 32}}, {{8}, {2}}, {{4}}};

inline dist::PlannedWidths planned_width(int bits) { return {bits, bits, bits == 32 ? 32 : 8}; }

inline dist::StepPlan plan_of(const std::vector<StepWidths>& run, std::size_t step, bool ahead) {
  dist::StepPlan plan{.step = step};
  for (const std::vector<int>& update : run[step]) {
    plan.updates.push_back({.passes = {}, .learning_rate = 1e-2F});
    for (const int bits : update) {
      const auto known = std::find(plan.maps.begin(), plan.maps.end(), planned_width(bits));
      plan.updates.back().passes.push_back({.map = static_cast<std::uint32_t>(known - plan.maps.begin())});
      if (known == plan.maps.end()) plan.maps.push_back(planned_width(bits));
    }
  }
  if (ahead && step + 1 < run.size())
    for (const int bits : run[step + 1].front()) plan.ahead.push_back(planned_width(bits));
  return plan;
}

}  // namespace qat::test

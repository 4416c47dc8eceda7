// What disturbed inputs cost, width by width, and what may be concluded from it.
#pragma once

#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/final_report.h"
#include "src/report/table.h"

namespace qat {

// One row a width or map of those that were disturbed: percent of next tokens that were the likeliest, the gap between
// the clean and the worst, in points, and the worst as a share of the clean.
Table robustness_table(const std::vector<WidthResult>& widths);
std::string robustness_text(const std::vector<WidthResult>& widths);      // empty: none was disturbed
std::string robustness_markdown(const std::vector<WidthResult>& widths);  // likewise
std::string robustness_latex(const std::vector<WidthResult>& widths);     // likewise
Value robustness_value(const RobustnessFigures& figures);

// What stands out, by fixed thresholds, each named in its sentence.
std::vector<std::string> robustness_insights(const RobustnessFigures& figures);

}  // namespace qat

// What narrower widths cost: every figure beside that of a baseline.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/final_report.h"
#include "src/report/table.h"

namespace qat {

// The result that others are compared with: the one called `wanted`, or without a name that of 32 bits, else the one
// with the most bits a weight; nothing if there is no other result, or none of that name.
std::optional<std::size_t> baseline_of(const std::vector<WidthResult>& widths, const std::string& wanted);

// One row for every other width: differences of perplexities, and of accuracies in points by the log-likelihood of the
// whole answer; positive is more than the baseline's. "-" where either is missing.
Table change_table(const std::vector<WidthResult>& widths, std::size_t baseline);

// With what it is; empty where change_table would say nothing.
std::string change_text(const std::vector<WidthResult>& widths, std::size_t baseline);
std::string change_markdown(const std::vector<WidthResult>& widths, std::size_t baseline);
std::string change_latex(const std::vector<WidthResult>& widths, std::size_t baseline);
// Of one width: {"baseline": .., "perplexity": {..}, "zero_shot": {..}, "zero_shot_average": ..}.
Value change_value(const WidthResult& width, const WidthResult& baseline);

}  // namespace qat

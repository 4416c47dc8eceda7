// How well texts were predicted, width by width, for people and for programs.
#pragma once

#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/final_report.h"
#include "src/report/table.h"

namespace qat {

bool has_texts(const std::vector<WidthResult>& widths);

// One row a width or map, the lowest perplexity of the first text first; a column a text, in the order of the results,
// after the held-out text's if that was scored. "-" where there is none.
Table perplexity_table(const std::vector<WidthResult>& widths);
// Percent of the scored tokens that were the likeliest, and among the five likeliest; no rows if that was not asked.
Table token_accuracy_table(const std::vector<WidthResult>& widths);

// Both with what they are, and what is missing; empty without texts.
std::string text_tables_text(const std::vector<WidthResult>& widths);
std::string text_tables_markdown(const std::vector<WidthResult>& widths);
std::string text_tables_latex(const std::vector<WidthResult>& widths);

// Members for "perplexity", and the details of each text.
Value perplexities_value(const std::vector<TextFigures>& texts);
Value texts_value(const std::vector<TextFigures>& texts);

}  // namespace qat

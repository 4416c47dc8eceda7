// What an evaluation found, as one HTML file: plots against the precisions, and all tables.
#pragma once

#include <string>
#include <vector>

#include "src/report/final_report.h"
#include "src/report/plot.h"

namespace qat {

// Against the precisions, from few bits a weight to many: perplexities, accuracies of tasks, questions that were
// answered, disturbed inputs, speed. Only those that there is something for.
std::vector<Plot> evaluation_plots(const FinalReport& report);

std::string evaluation_page(const FinalReport& report);

}  // namespace qat

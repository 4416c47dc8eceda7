// What the runs of a sweep have come to, from what their folders hold.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/config/sweep_file.h"
#include "src/report/table.h"

namespace qat::launch {

struct SweepResult {
  std::string state = "missing";  // else that of status.json: running, stopped, finished, failed
  std::optional<std::int64_t> steps;
  std::optional<double> loss;             // of the last step in metrics.jsonl
  std::map<std::string, double> figures;  // of the final table: "perplexity at 8", "F1 at 4"
};

SweepResult result_of(const SweepRun& run);
std::vector<SweepResult> sweep_results(const SweepPlan& sweep);  // in the order of its runs

// A row a run: the keys that are varied, the state, the last loss and the figures of the final table.
Table sweep_table(const SweepPlan& sweep, const std::vector<SweepResult>& results);
Value sweep_value(const SweepPlan& sweep, const std::vector<SweepResult>& results);

}  // namespace qat::launch

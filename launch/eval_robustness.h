// `qat_dist eval --robustness`: next tokens that are still right while inputs are disturbed.
#pragma once

#include <CLI/CLI.hpp>
#include <vector>

#include "launch/world.h"
#include "src/config/run_config.h"
#include "src/eval/robustness.h"
#include "src/eval/width_eval.h"
#include "src/report/final_report.h"

namespace qat::launch {

struct RobustnessAsk {
  bool asked = false;
  RobustnessOptions how;  // the seed is the run's
};

// `ask` lives as long as `app`.
void add_robustness_options(CLI::App& app, RobustnessAsk& ask);

// Collective; by width. Empty if it was not asked for. held_out: null for a model that answers questions, which is
// refused.
std::vector<RobustnessFigures> score_robustness(World& world, const Gpt2& model, const RunConfig& config,
                                                const std::vector<EvaluatedAt>& widths, const EvaluationRanges& ranges,
                                                int threads, const TokenSource* held_out, const RobustnessAsk& ask,
                                                dist::StopPoll& poll);

}  // namespace qat::launch

// How long a step of a run takes on so many ranks, before it has run anywhere: its passes as the schedule and the
// recipe plan them, by the model of times (pass_time.h), and the exchange of gradients and parameters between the
// ranks.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "src/config/run_config.h"
#include "src/cost/device_rates.h"
#include "src/cost/pass_time.h"
#include "src/memory/memory_model.h"

namespace qat {

// Where a run's ranks are and what they compute on.
struct RankPlace {
  bool cuda = false;
  int ranks = 1;      // of the run
  int nodes = 1;      // with equally many ranks each
  int threads = 1;    // of a rank, on CPUs: passes side by side
  int cores = 0;      // of a node, that its ranks share; 0: enough
  DeviceRates rates;  // of a GPU, or of one core
  Links links;

  int ranks_here() const { return ranks / nodes; }
};

// Seconds, the mean over the run's steps.
struct StepTime {
  double passes_s = 0.0;    // with stages from the first micro-batch's beginning to the last one's end
  double idle_share = 0.0;  // of passes_s, that a stage waits for others, on average
  double update_s = 0.0;
  double exchange_s = 0.0;      // gradients and weights: what they add to the step
  double hidden_s = 0.0;        // and what goes on beside backward at no cost
  double gradient_bytes = 0.0;  // that a rank sends
  double weight_bytes = 0.0;
  std::map<std::string, double> passes;  // training passes a step, by precision ("8", "map stripe8&4")
  std::map<std::string, double> pass_s;  // what one of them takes on a rank that has the whole model
  double updates = 0.0;                  // a step, each with an exchange

  double total() const { return passes_s + update_s + exchange_s; }
};

// The configuration has been checked against the ranks. windows_per_epoch: samples in one pass over the training data,
// for schedules that count epochs; any number for others. Looks at no more than 256 steps, evenly spread over the run.
StepTime expected_step(const RunConfig& config, const RankPlace& place, std::int64_t windows_per_epoch = 1);

// Rates of a device on which a step of what one replica has to do, on one rank without stages, takes `seconds`: as it
// was measured to. place: of the run that is planned.
DeviceRates fitted_rates(const RunConfig& config, const RankPlace& place, double seconds,
                         std::int64_t windows_per_epoch = 1);

// Of an evaluation of `tokens` held-out tokens at everything that eval.bits and eval.maps name, on all ranks.
double evaluation_seconds(const RunConfig& config, const RankPlace& place, std::int64_t tokens);

}  // namespace qat

// What rank 0 decides about one step; the others obey the same bytes. Broadcast, checked, never derived per rank.
//
//   step = updates in turn, each = passes in turn, each = all micro-batches of the global batch at one precision
//
// Every update of a step learns from the same samples. Its gradient is the sum of its passes', by their loss weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "dist/comm/communicator.h"

namespace qat::dist {

// A precision that the step uses: what the schedule says; per-layer overrides and the configured maps of all layers'
// widths are part of the hashed configuration. Of such a map the widths here are what it counts as.
struct PlannedWidths {
  static constexpr std::int32_t kNoBitmap = -1;

  std::int32_t weight_bits = 32;
  std::int32_t activation_bits = 32;
  std::int32_t gradient_bits = 32;
  std::int32_t bitmap = kNoBitmap;  // which configured map it is
  // Where blocks are at different places of the schedule: the weights' width of each, and then of a quantized head. Of
  // those widths weight_bits is the one that the whole counts as. Empty: all have weight_bits.
  std::vector<std::int32_t> block_bits;
  friend bool operator==(const PlannedWidths&, const PlannedWidths&) = default;
};

// loss = cross_entropy * CE(labels) + distillation * temperature^2 * sum over teachers of KL(teacher || pass, at that
// temperature) + features * mean squared difference from the first teacher's hidden states
struct LossWeights {
  double cross_entropy = 1.0;
  double distillation = 0.0;
  double temperature = 1.0;
  double features = 0.0;
  friend bool operator==(const LossWeights&, const LossWeights&) = default;
};

struct PassPlan {
  std::uint32_t map = 0;  // in StepPlan::maps
  bool trains = true;     // has a gradient; else it is there to teach
  LossWeights loss{};
  std::vector<std::uint32_t> teachers;  // earlier passes of the same update
  // The hidden states that `features` is about: 0..n_layer-1 enter the block of that number, n_layer follows the last
  // norm. None without teachers.
  std::vector<std::uint32_t> feature_layers;
  friend bool operator==(const PassPlan&, const PassPlan&) = default;
};

// The learning rate of parameters that single widths have for themselves.
struct WidthRate {
  std::int32_t weight_bits = 32;
  float learning_rate = 0.0F;
  friend bool operator==(const WidthRate&, const WidthRate&) = default;
};

struct UpdatePlan {
  std::vector<PassPlan> passes;        // at least one that trains
  float learning_rate = 0.0F;          // after warm-up
  std::vector<WidthRate> width_rates;  // where a width's own parameters have another; each width once
  friend bool operator==(const UpdatePlan&, const UpdatePlan&) = default;
};

struct StepPlan {
  std::uint64_t step = 0;           // must equal the receiver's own counter
  std::uint64_t config_hash = 0;    // must equal the receiver's own
  std::uint64_t first_sample = 0;   // number in the run of the step's first sample; must equal the receiver's own
  std::vector<PlannedWidths> maps;  // distinct
  std::vector<UpdatePlan> updates;  // at least one
  bool evaluate_after = false;      // every rank evaluates after this step
  bool checkpoint_after = false;
  // The maps of the next step's first update, that of its first pass in front, so that what it reads may be sent
  // before. Empty: there is none, or something comes between. A hint: the next step's own plan is what counts.
  std::vector<PlannedWidths> ahead;
  friend bool operator==(const StepPlan&, const StepPlan&) = default;
};

// The widths of an update's first pass that trains: what the update's loss is compared with others' by.
const PlannedWidths& widths_of(const StepPlan& plan, const UpdatePlan& update);

// The rate of the parameters that this width has for itself.
float rate_of(const UpdatePlan& update, int weight_bits);

// Throws Error(kInternal), saying what, for a plan that names a map or a teacher that is not there, an update without a
// pass that trains, no width, or a number that is not finite.
void check(const StepPlan& plan);

// The plan as bytes, with a version in front. decode() takes the very bytes of a plan that check() passes, and throws
// Error(kInternal) for any other: of another version, cut short, with bytes to spare, with counts beyond its length.
std::vector<std::uint8_t> encode(const StepPlan& plan);
StepPlan decode_step_plan(std::span<const std::uint8_t> bytes);

// Broadcasts rank 0's plan. Throws Error(kInternal) on a rank whose own step, hash or first sample differs, naming
// both.
StepPlan exchange_step_plan(Communicator& comm, const StepPlan& mine);

}  // namespace qat::dist

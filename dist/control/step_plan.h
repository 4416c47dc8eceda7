// What rank 0 decides about one step; the others obey the same bytes. Broadcast, checked, never derived per rank.
#pragma once

#include <cstdint>
#include <type_traits>

#include "dist/comm/communicator.h"

namespace qat::dist {

enum class StepKind : std::uint32_t { kTrain = 1, kStop = 2 };

struct StepPlan {
  std::uint64_t step = 0;          // must equal the receiver's own counter
  std::uint64_t config_hash = 0;   // must equal the receiver's own
  std::uint64_t first_sample = 0;  // number in the run of the step's first sample; must equal the receiver's own
  StepKind kind = StepKind::kTrain;
  std::int32_t weight_bits = 32;      // what the schedule says; per-layer overrides are part of the hashed config
  std::int32_t activation_bits = 32;  //
  std::int32_t gradient_bits = 32;    //
  float learning_rate = 0.0F;         // after warm-up
  std::uint32_t evaluate_after = 0;   // 1: every rank evaluates after this step
  std::uint32_t checkpoint_after = 0;
  std::uint32_t stop_after = 0;
};
static_assert(std::is_trivially_copyable_v<StepPlan>, "sent as bytes");

// Broadcasts rank 0's plan. Throws Error(kInternal) on a rank whose own step or hash differs, naming both.
StepPlan exchange_step_plan(Communicator& comm, const StepPlan& mine);

}  // namespace qat::dist

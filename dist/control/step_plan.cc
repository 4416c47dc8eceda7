#include "dist/control/step_plan.h"

#include <array>
#include <bit>
#include <span>
#include <string>

#include "kernels/common/error.h"

namespace qat::dist {

StepPlan exchange_step_plan(Communicator& comm, const StepPlan& mine) {
  auto bytes = std::bit_cast<std::array<std::uint8_t, sizeof(StepPlan)>>(mine);
  comm.broadcast(view(std::span<std::uint8_t>(bytes)), /*root=*/0);
  const auto plan = std::bit_cast<StepPlan>(bytes);
  const auto refuse = [&](const std::string& what, std::uint64_t own, std::uint64_t theirs) {
    throw Error(ErrorKind::kInternal, "internal error: rank " + std::to_string(comm.rank()) + " has " + what + " " +
                                          std::to_string(own) + ", rank 0 sent a plan for " + what + " " +
                                          std::to_string(theirs));
  };
  if (plan.step != mine.step) refuse("step", mine.step, plan.step);
  if (plan.config_hash != mine.config_hash) refuse("configuration hash", mine.config_hash, plan.config_hash);
  if (plan.first_sample != mine.first_sample) refuse("first sample", mine.first_sample, plan.first_sample);
  QAT_CHECK(plan.kind == StepKind::kTrain || plan.kind == StepKind::kStop, "a step plan of unknown kind");
  return plan;
}

}  // namespace qat::dist

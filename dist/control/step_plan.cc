#include "dist/control/step_plan.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <string>

#include "kernels/common/bit_width.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

void require(bool holds, const std::string& what) {
  if (!holds) throw Error(ErrorKind::kInternal, "internal error: a step plan with " + what);
}

void check_pass(const StepPlan& plan, const UpdatePlan& update, std::size_t index) {
  const PassPlan& pass = update.passes[index];
  require(pass.map < plan.maps.size(),
          "map " + std::to_string(pass.map) + " in a pass, of " + std::to_string(plan.maps.size()));
  for (const std::uint32_t teacher : pass.teachers)
    require(teacher < index, "teacher " + std::to_string(teacher) + " of pass " + std::to_string(index));
  const LossWeights& loss = pass.loss;
  const auto is_weight = [](double value) { return std::isfinite(value) && value >= 0.0; };
  require(is_weight(loss.cross_entropy) && is_weight(loss.distillation) && is_weight(loss.features) &&
              is_weight(loss.temperature) && loss.temperature > 0.0,
          "loss weights " + std::to_string(loss.cross_entropy) + ", " + std::to_string(loss.distillation) + " and " +
              std::to_string(loss.features) + " at temperature " + std::to_string(loss.temperature));
  require(!pass.teachers.empty() || (loss.distillation == 0.0 && pass.feature_layers.empty()),
          "something to learn in pass " + std::to_string(index) + ", and no teacher");
  require(pass.trains || pass.teachers.empty(),
          "a teacher of pass " + std::to_string(index) + ", which learns nothing");
}

void check_widths(const PlannedWidths& map) {
  require(BitWidth::is_valid(map.weight_bits), "a width of " + std::to_string(map.weight_bits) + " bits");
  for (const std::int32_t bits : {map.activation_bits, map.gradient_bits})
    require(BitWidth::is_usual(bits), "a width of " + std::to_string(bits) + " bits");
  require(map.bitmap >= PlannedWidths::kNoBitmap, "configured map " + std::to_string(map.bitmap));
  require(map.bitmap == PlannedWidths::kNoBitmap || map.block_bits.empty(), "a configured map with widths of blocks");
  for (const std::int32_t bits : map.block_bits)
    require(BitWidth::is_valid(bits), "a width of " + std::to_string(bits) + " bits");
}

}  // namespace

const PlannedWidths& widths_of(const StepPlan& plan, const UpdatePlan& update) {
  const auto first =
      std::find_if(update.passes.begin(), update.passes.end(), [](const auto& one) { return one.trains; });
  QAT_CHECK(first != update.passes.end(), "an update has a pass that trains");
  return plan.maps.at(first->map);
}

float rate_of(const UpdatePlan& update, int weight_bits) {
  const auto found = std::find_if(update.width_rates.begin(), update.width_rates.end(),
                                  [&](const WidthRate& one) { return one.weight_bits == weight_bits; });
  return found == update.width_rates.end() ? update.learning_rate : found->learning_rate;
}

void check(const StepPlan& plan) {
  for (const std::vector<PlannedWidths>* maps : {&plan.maps, &plan.ahead})
    for (const PlannedWidths& map : *maps) check_widths(map);
  require(!plan.updates.empty(), "no update");
  for (const UpdatePlan& update : plan.updates) {
    const auto check_rate = [](float rate) {
      require(std::isfinite(rate) && rate >= 0.0F, "learning rate " + std::to_string(rate));
    };
    check_rate(update.learning_rate);
    for (std::size_t i = 0; i < update.width_rates.size(); ++i) {
      const WidthRate& own = update.width_rates[i];
      check_rate(own.learning_rate);
      require(BitWidth::is_valid(own.weight_bits), "a rate for " + std::to_string(own.weight_bits) + " bits");
      for (std::size_t before = 0; before < i; ++before)
        require(update.width_rates[before].weight_bits != own.weight_bits,
                "two rates for " + std::to_string(own.weight_bits) + " bits");
    }
    require(std::any_of(update.passes.begin(), update.passes.end(), [](const auto& one) { return one.trains; }),
            "an update without a pass that trains");
    for (std::size_t i = 0; i < update.passes.size(); ++i) check_pass(plan, update, i);
  }
}

StepPlan exchange_step_plan(Communicator& comm, const StepPlan& mine) {
  std::vector<std::uint8_t> bytes;
  if (comm.rank() == 0) check(mine), bytes = encode(mine);
  std::vector<std::int64_t> length = {std::ssize(bytes)};
  comm.broadcast(view(std::span(length)), /*root=*/0);
  constexpr std::int64_t kLongest = std::int64_t{1} << 24;
  require(length[0] > 0 && length[0] <= kLongest, std::to_string(length[0]) + " bytes");
  bytes.resize(static_cast<std::size_t>(length[0]));
  comm.broadcast(view(std::span(bytes)), /*root=*/0);
  StepPlan plan = decode_step_plan(bytes);
  const auto refuse = [&](const std::string& what, std::uint64_t own, std::uint64_t theirs) {
    throw Error(ErrorKind::kInternal, "internal error: rank " + std::to_string(comm.rank()) + " has " + what + " " +
                                          std::to_string(own) + ", rank 0 sent a plan for " + what + " " +
                                          std::to_string(theirs));
  };
  if (plan.step != mine.step) refuse("step", mine.step, plan.step);
  if (plan.config_hash != mine.config_hash) refuse("configuration hash", mine.config_hash, plan.config_hash);
  if (plan.first_sample != mine.first_sample) refuse("first sample", mine.first_sample, plan.first_sample);
  return plan;
}

}  // namespace qat::dist

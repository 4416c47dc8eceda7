#include "src/train/state_snapshot.h"

#include <ATen/ATen.h>

#include <array>
#include <utility>

#include "src/train/owned_state.h"

namespace qat {
namespace {

// What lies there now.
at::Tensor on_device(std::span<float> values, const ParameterStore& store) {
  return at::from_blob(values.data(), {static_cast<std::int64_t>(values.size())},
                       at::TensorOptions().dtype(at::kFloat).device(store.device()));
}

std::array<std::span<float>, 3> parts_of(const OwnedState& own) { return {own.values, own.exp_avg, own.exp_avg_sq}; }

}  // namespace

StateSnapshot::StateSnapshot(Gpt2& model, StepRunner& runner, const dist::Grid& grid)
    : model_(model), runner_(runner), grid_(grid), steps_(runner.optimizer().steps()) {
  const at::NoGradGuard no_grad;
  const ParameterStore& store = model_.parameters();
  for (const OwnedState& own : owned_state(store, runner_.optimizer()))
    for (const std::span<float> part : parts_of(own))
      owned_.push_back(on_device(part, store).to(at::kCPU, at::kFloat, /*non_blocking=*/false, /*copy=*/true));
  for (const QuantLinear& linear : std::as_const(model_).linears()) {
    quantizers_.push_back(linear.weight_quantizer());
    quantizers_.push_back(linear.activation_quantizer());
  }
  for (dist::ErrorFeedback& group : runner_.gradients().feedback()) feedback_.push_back(std::move(group));
  begin_without_feedback();
}

void StateSnapshot::begin_without_feedback() {
  GradientSync& gradients = runner_.gradients();
  const auto& groups = model_.parameters().groups();
  for (std::size_t g = 0; g < gradients.feedback().size(); ++g)
    gradients.feedback()[g] =
        dist::ErrorFeedback(groups[g].layout, grid_.data_rank(), grid_.data_size(), gradients.feedback_memory());
}

void StateSnapshot::restore() {
  const at::NoGradGuard no_grad;
  const ParameterStore& store = model_.parameters();
  auto kept = owned_.begin();
  for (const OwnedState& own : owned_state(store, runner_.optimizer()))
    for (const std::span<float> part : parts_of(own)) on_device(part, store).copy_(*kept++);
  runner_.optimizer().steps() = steps_;
  auto quantizer = quantizers_.cbegin();
  for (QuantLinear& linear : model_.linears()) {
    linear.weight_quantizer() = *quantizer++;
    linear.activation_quantizer() = *quantizer++;
  }
  begin_without_feedback();
  runner_.share_parameters();
  (void)runner_.take_refused();  // of updates that are forgotten
}

void StateSnapshot::finish() {
  restore();
  for (std::size_t g = 0; g < feedback_.size(); ++g) runner_.gradients().feedback()[g] = std::move(feedback_[g]);
}

}  // namespace qat

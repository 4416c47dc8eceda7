// What a pass teaches, and what it learns beside its targets: distributions, over the vocabulary or, where a model
// answers questions, over places in a text; and hidden states.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>

#include "src/loss/distillation.h"

namespace qat {

// Hidden states by number, [M, d]: 0..n_layer-1 enter the block of that number, n_layer is what follows the last norm.
using HiddenStates = std::map<std::int64_t, at::Tensor>;

// What a pass leaves to those that learn from it in the same update, while no parameter changes. No gradient.
struct Teaching {
  HiddenStates features{};  // in: the numbers that are asked for; out: the states
  at::Tensor output{};      // [M, d] after the last norm
};

// A teacher's output projection, or its head that answers questions: from its Teaching::output to its logits of some of
// the tokens. Holds what it needs beside parameters that no width has for itself.
using TeacherHead = std::function<Distillation::Logits(const at::Tensor& output)>;

struct Lesson {
  Distillation distillation{};
  // feature_weight * mean over `features` of the mean squared difference from the teacher's states: over the valid
  // targets' tokens, by their count as the cross-entropy's (loss_scale.h), and d. Of questions: over the windows the
  // mean of the means over each one's tokens, without padding.
  double feature_weight = 0.0;
  HiddenStates features{};         // of a chunk of a stage: its own
  std::int64_t feature_count = 0;  // in all chunks; 0: as many as there are here
};

// How far a chunk's hidden states are from its lesson's.
struct FeatureLoss {
  at::Tensor loss{};     // fp32 [], differentiable: its part of the pass's, without weight; undefined: no states here
  double weight = 0.0;   // of the loss
  HiddenStates sums{};   // of squared differences, by state: fp32 [], without gradient
  double divisor = 0.0;  // of the sums of all chunks, added in order of states: the pass's loss
};

}  // namespace qat

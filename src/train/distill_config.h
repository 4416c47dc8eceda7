// What passes learn from teachers. JSON section "distill".
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "src/base/named_enum.h"

namespace qat {

// Auto: nobody, but with train.recipe sp the pass at 32 bits, and with instantnet every wider pass.
enum class TeacherChoice : unsigned char { kAuto, kNone, kFull, kWider };
template <>
struct EnumNames<TeacherChoice> {
  static constexpr std::array names{"auto", "none", "full", "wider"};
};

enum class FeaturePick : unsigned char { kOne, kAll };
template <>
struct EnumNames<FeaturePick> {
  static constexpr std::array names{"one", "all"};
};

// The loss of a pass that is taught: cross_entropy * CE + weight * temperature^2 * sum over teachers of
// KL(teacher || pass) + features * mean squared difference of hidden states. Other passes have CE alone.
struct DistillConfig {
  TeacherChoice teacher = TeacherChoice::kAuto;
  double weight = 1.0;              // of the divergence from the teachers
  double cross_entropy = 1.0;       // of the targets, in a pass that is taught
  double temperature = 1.0;         // what logits are divided by
  double features = 0.0;            // of the hidden states' difference; 0: they are not compared
  std::vector<int> feature_layers;  // 0..n_layer-1 enter that block, n_layer follows the last norm; empty: all
  FeaturePick feature_pick = FeaturePick::kOne;  // a pass compares one of them, drawn at random, or all
  std::int64_t start_step = 0;                   // before it nobody is taught
  double teacher_cross_entropy = 0.0;  // recipe sp: above 0, the 32-bit pass learns the targets, by this weight
};

}  // namespace qat

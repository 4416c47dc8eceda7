// The precision range test. JSON section "range_test".
#pragma once

#include <array>
#include <cstdint>

#include "src/base/named_enum.h"

namespace qat {

enum class RangeTestForm : unsigned char { kAccuracy, kPlateau };
template <>
struct EnumNames<RangeTestForm> {
  static constexpr std::array names{"accuracy", "plateau"};
};

// What the forms decide by is in range_test.h.
struct RangeTestConfig {
  RangeTestForm form = RangeTestForm::kAccuracy;
  std::int64_t steps = 50;  // at each width
  double threshold = 0.01;  // accuracy: gained share of tokens; plateau: lost part of the loss
  double plateau = 0.02;    // plateau: part of the loss that a width must save over the one below it
  int target_bits = 0;      // accuracy: max_bits is at most 4 above it; 0: the highest width
  double lr_factor = 1.0;   // learning rate of the test's steps / lr.peak
};

}  // namespace qat

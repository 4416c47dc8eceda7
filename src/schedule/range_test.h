// The precision range test: which widths a schedule should move between. From one state, and on the same batches, the
// model trains for a while at each width from the lowest to the highest (arXiv:2101.09868, section 3.3, with the state
// put back in between). Pure: what was measured, and what follows from it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/schedule/range_test_config.h"

namespace qat {

// Training at one width. First and last: means over the first and the last averaged_steps() steps, each measured before
// the step's update.
struct WidthTrial {
  int bits = 0;
  double accuracy_first = 0.0, accuracy_last = 0.0;  // share of tokens that are the most likely one; NaN: has none
  double loss_first = 0.0, loss_last = 0.0;          // nats
  std::int64_t skipped = 0;                          // steps whose loss or gradient was not finite

  double gain() const { return accuracy_last - accuracy_first; }
  double loss_gain() const { return (loss_first - loss_last) / loss_first; }
  friend bool operator==(const WidthTrial&, const WidthTrial&) = default;
};

struct RangeTestResult {
  RangeTestForm form = RangeTestForm::kAccuracy;
  double threshold = 0.0, plateau = 0.0;
  std::int64_t steps = 0;          // at each width
  std::int64_t begin = 0;          // the run's step before which it was made
  std::vector<WidthTrial> trials;  // by rising width
  int min_bits = 0, max_bits = 0;  // 0: no width passed the threshold
  friend bool operator==(const RangeTestResult&, const RangeTestResult&) = default;
};

// Steps at either end that a trial's means are over: min(20, steps / 2), at least 1.
std::int64_t averaged_steps(std::int64_t steps);

// What a form decides by: the gain of accuracy, or of the loss.
double gain_of(RangeTestForm form, const WidthTrial& trial);

// Sets the bounds. trials are by rising width, at least one.
//   accuracy   min: the first width that gains more than the threshold
//              max: the highest width up to target_bits + 4, or of all where target_bits is 0
//   plateau    min: the first width whose loss has fallen by more than the part `threshold`
//              max: the first width from min on after which the next one's last loss is not lower by the part `plateau`
// max is at least min. A width with a skipped step, or of numbers that are not finite, does not pass.
void choose_bounds(const RangeTestConfig& config, RangeTestResult& result);

// For people: what each width did, with a bar for its gain and a mark at the threshold.
std::string range_test_text(const RangeTestResult& result);
// What no width passed the threshold means, and how to mend it.
std::string nothing_passed_text(const RangeTestResult& result);

// run.dir/range_test.json, and what checkpoints keep of it: every number exactly.
std::string range_test_json(const RangeTestResult& result, int indent = -1);
RangeTestResult range_test_from_json(const std::string& text, const std::string& source);

}  // namespace qat

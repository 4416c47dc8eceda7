#include "src/schedule/range_test.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/common/error.h"
#include "src/base/json.h"

namespace qat {
namespace {

constexpr int kAboveTarget = 4;  // bits
constexpr int kBar = 40;         // characters

bool is_sound(const WidthTrial& trial, RangeTestForm form) {
  return trial.skipped == 0 && std::isfinite(trial.loss_last) && std::isfinite(gain_of(form, trial));
}

int highest_for(int target_bits, const std::vector<WidthTrial>& trials) {
  int highest = trials.front().bits;
  for (const WidthTrial& trial : trials)
    if (target_bits == 0 || trial.bits <= target_bits + kAboveTarget) highest = trial.bits;
  return highest;
}

int end_of_descent(double plateau, const std::vector<WidthTrial>& trials, std::size_t from) {
  for (std::size_t i = from; i + 1 < trials.size(); ++i) {
    const double saved = (trials[i].loss_last - trials[i + 1].loss_last) / trials[i].loss_last;
    if (!(saved >= plateau)) return trials[i].bits;
  }
  return trials.back().bits;
}

std::string bar(double gain, double threshold, double most) {
  std::string text(kBar, ' ');
  const auto place = [&](double value) {
    return static_cast<std::size_t>(std::clamp(std::lround(value / most * (kBar - 1)), 0L, long{kBar - 1}));
  };
  if (std::isfinite(gain) && gain > 0.0) std::fill_n(text.begin(), place(gain) + 1, '#');
  text[place(threshold)] = '|';
  return text;
}

double number_or_nan(const Value& value) {
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.as_double();
}

}  // namespace

std::int64_t averaged_steps(std::int64_t steps) {
  return std::max<std::int64_t>(1, std::min<std::int64_t>(20, steps / 2));
}

double gain_of(RangeTestForm form, const WidthTrial& trial) {
  return form == RangeTestForm::kAccuracy ? trial.gain() : trial.loss_gain();
}

void choose_bounds(const RangeTestConfig& config, RangeTestResult& result) {
  QAT_CHECK(!result.trials.empty(), "a range test has a width to try");
  result.form = config.form;
  result.threshold = config.threshold;
  result.plateau = config.plateau;
  result.min_bits = result.max_bits = 0;
  const auto passed = std::find_if(result.trials.begin(), result.trials.end(), [&](const WidthTrial& trial) {
    return is_sound(trial, config.form) && gain_of(config.form, trial) > config.threshold;
  });
  if (passed == result.trials.end()) return;
  result.min_bits = passed->bits;
  const auto from = static_cast<std::size_t>(passed - result.trials.begin());
  const int highest = config.form == RangeTestForm::kAccuracy ? highest_for(config.target_bits, result.trials)
                                                              : end_of_descent(config.plateau, result.trials, from);
  result.max_bits = std::max(highest, result.min_bits);
}

std::string range_test_text(const RangeTestResult& result) {
  const bool by_accuracy = result.form == RangeTestForm::kAccuracy;
  std::string text = fmt::format(
      "precision range test ({}): {} steps at each width, means of the first and last {}\n"
      "  bits      accuracy        gain           loss        gain   {} beyond {}\n",
      enum_name(result.form), result.steps, averaged_steps(result.steps), by_accuracy ? "accuracy" : "loss",
      result.threshold);
  double most = result.threshold;
  for (const WidthTrial& trial : result.trials)
    if (const double gain = gain_of(result.form, trial); std::isfinite(gain)) most = std::max(most, gain);
  if (most <= 0.0) most = 1.0;
  for (const WidthTrial& trial : result.trials)
    text += fmt::format("  {:4}  {:.4f} to {:.4f}  {:+8.4f}  {:7.4f} to {:7.4f}  {:+7.2f} %  {}{}\n", trial.bits,
                        trial.accuracy_first, trial.accuracy_last, trial.gain(), trial.loss_first, trial.loss_last,
                        100.0 * trial.loss_gain(), bar(gain_of(result.form, trial), result.threshold, most),
                        trial.skipped > 0 ? fmt::format(" {} skipped", trial.skipped) : "");
  if (result.min_bits == 0) return text + "no width passes the threshold\n";
  return text + fmt::format("bounds: precision.min_bits {}, precision.max_bits {}\n", result.min_bits, result.max_bits);
}

std::string nothing_passed_text(const RangeTestResult& result) {
  const auto best = std::max_element(result.trials.begin(), result.trials.end(), [&](const auto& a, const auto& b) {
    const double left = gain_of(result.form, a), right = gain_of(result.form, b);
    return std::isnan(left) ? !std::isnan(right) : left < right;
  });
  return fmt::format(
      "the range test found no width that passes range_test.threshold = {}: the most is {:.4g}, at {} bits. Lower it, "
      "raise range_test.steps or range_test.lr_factor, or give precision.min_bits and precision.max_bits as numbers",
      result.threshold, gain_of(result.form, *best), best->bits);
}

std::string range_test_json(const RangeTestResult& result, int indent) {
  Value widths = Value::array();
  for (const WidthTrial& trial : result.trials)
    widths.push_back(Value::object({{"bits", trial.bits},
                                    {"accuracy_first", trial.accuracy_first},
                                    {"accuracy_last", trial.accuracy_last},
                                    {"gain", trial.gain()},
                                    {"loss_first", trial.loss_first},
                                    {"loss_last", trial.loss_last},
                                    {"loss_gain", trial.loss_gain()},
                                    {"skipped", trial.skipped}}));
  const auto bound = [](int bits) { return bits == 0 ? Value() : Value(bits); };
  return to_json(Value::object({{"form", enum_name(result.form)},
                                {"threshold", result.threshold},
                                {"plateau", result.plateau},
                                {"steps", result.steps},
                                {"averaged_steps", averaged_steps(result.steps)},
                                {"before_step", result.begin},
                                {"widths", std::move(widths)},
                                {"min_bits", bound(result.min_bits)},
                                {"max_bits", bound(result.max_bits)}}),
                 indent);
}

RangeTestResult range_test_from_json(const std::string& text, const std::string& source) {
  const Value value = parse_json(text, source, ErrorKind::kCheckpoint);
  const auto bound = [&](const char* key) {
    return value.at(key).is_null() ? 0 : static_cast<int>(value.at(key).as_int());
  };
  RangeTestResult result{.threshold = value.at("threshold").as_double(),
                         .plateau = value.at("plateau").as_double(),
                         .steps = value.at("steps").as_int(),
                         .begin = value.at("before_step").as_int(),
                         .trials = {},
                         .min_bits = bound("min_bits"),
                         .max_bits = bound("max_bits")};
  const auto form = enum_value<RangeTestForm>(value.at("form").as_string());
  if (!form) throw Error(ErrorKind::kCheckpoint, source + ": a range test of an unknown form");
  result.form = *form;
  for (const Value& one : value.at("widths").as_array())
    result.trials.push_back({.bits = static_cast<int>(one.at("bits").as_int()),
                             .accuracy_first = number_or_nan(one.at("accuracy_first")),
                             .accuracy_last = number_or_nan(one.at("accuracy_last")),
                             .loss_first = number_or_nan(one.at("loss_first")),
                             .loss_last = number_or_nan(one.at("loss_last")),
                             .skipped = one.at("skipped").as_int()});
  return result;
}

}  // namespace qat

#include "src/train/loss_monitor.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "src/base/json.h"

namespace qat {
namespace {

constexpr std::int64_t kFewest = 8;  // losses before a width's own statistics say what is plausible
constexpr double kNats = 1.0, kDeviations = 6.0;
constexpr double kTimes = 3.0;

double limit_of(double mean, double variance) { return mean + kNats + kDeviations * std::sqrt(variance); }

}  // namespace

void LossMonitor::add(int bits, double loss) {
  if (!std::isfinite(loss)) return;
  Statistics& s = by_bits_[bits];
  // One wild loss must not move the mark for the next.
  if (s.count >= kFewest) loss = std::min(loss, limit_of(s.mean, s.variance));
  ++s.count;
  const double weight = std::max(1.0 / static_cast<double>(s.count), 2.0 / static_cast<double>(window_ + 1));
  const double difference = loss - s.mean;
  s.mean += weight * difference;
  s.variance = (1.0 - weight) * (s.variance + weight * difference * difference);
}

double LossMonitor::deviation(int bits, double loss) const {
  const auto found = by_bits_.find(bits);
  if (found == by_bits_.end() || found->second.count < window_) return 0.0;
  if (!std::isfinite(loss)) return std::numeric_limits<double>::infinity();
  const Statistics& s = found->second;
  if (loss <= s.mean) return 0.0;
  return s.variance > 0.0 ? (loss - s.mean) / std::sqrt(s.variance) : std::numeric_limits<double>::infinity();
}

bool LossMonitor::is_plausible(int bits, double loss, std::int64_t choices) const {
  if (!std::isfinite(loss)) return false;
  const auto found = by_bits_.find(bits);
  if (found != by_bits_.end() && found->second.count >= kFewest)
    return loss <= limit_of(found->second.mean, found->second.variance);
  double highest = std::log(static_cast<double>(choices));
  for (const auto& [other, s] : by_bits_) highest = std::max(highest, s.mean);
  return loss <= kTimes * highest;
}

std::string LossMonitor::to_text() const {
  Value::Array widths;
  for (const auto& [bits, s] : by_bits_)
    widths.push_back(Value::object({{"bits", bits}, {"count", s.count}, {"mean", s.mean}, {"variance", s.variance}}));
  return to_json(Value::array(std::move(widths)));
}

LossMonitor LossMonitor::from_text(const std::string& text, std::int64_t window) {
  LossMonitor monitor(window);
  if (text.empty()) return monitor;  // a checkpoint from before losses were watched
  const Value widths = parse_json(text, "the checkpoint's loss statistics", ErrorKind::kCheckpoint);
  for (const Value& width : widths.as_array())
    monitor.by_bits_[static_cast<int>(width.at("bits").as_int())] = {.count = width.at("count").as_int(),
                                                                     .mean = width.at("mean").as_double(),
                                                                     .variance = width.at("variance").as_double()};
  return monitor;
}

}  // namespace qat

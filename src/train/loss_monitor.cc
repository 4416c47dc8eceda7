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

// Earlier programs numbered precisions: a width was itself, and quant.maps[i] was 100 + i.
std::string key_of_number(std::int64_t number, const std::vector<std::string>& maps) {
  constexpr std::int64_t kFirstMap = 100;
  if (number < kFirstMap) return std::to_string(number);
  const auto map = static_cast<std::size_t>(number - kFirstMap);
  return map < maps.size() ? maps[map] : "";
}

double limit_of(double mean, double variance) { return mean + kNats + kDeviations * std::sqrt(variance); }

}  // namespace

void LossMonitor::add(const std::string& precision, double loss) {
  if (!std::isfinite(loss)) return;
  Statistics& s = by_precision_[precision];
  // One wild loss must not move the mark for the next.
  if (s.count >= kFewest) loss = std::min(loss, limit_of(s.mean, s.variance));
  ++s.count;
  const double weight = std::max(1.0 / static_cast<double>(s.count), 2.0 / static_cast<double>(window_ + 1));
  const double difference = loss - s.mean;
  s.mean += weight * difference;
  s.variance = (1.0 - weight) * (s.variance + weight * difference * difference);
}

double LossMonitor::deviation(const std::string& precision, double loss) const {
  const auto found = by_precision_.find(precision);
  if (found == by_precision_.end() || found->second.count < window_) return 0.0;
  if (!std::isfinite(loss)) return std::numeric_limits<double>::infinity();
  const Statistics& s = found->second;
  if (loss <= s.mean) return 0.0;
  return s.variance > 0.0 ? (loss - s.mean) / std::sqrt(s.variance) : std::numeric_limits<double>::infinity();
}

bool LossMonitor::is_plausible(const std::string& precision, double loss, std::int64_t choices) const {
  if (!std::isfinite(loss)) return false;
  const auto found = by_precision_.find(precision);
  if (found != by_precision_.end() && found->second.count >= kFewest)
    return loss <= limit_of(found->second.mean, found->second.variance);
  double highest = std::log(static_cast<double>(choices));
  for (const auto& [other, s] : by_precision_) highest = std::max(highest, s.mean);
  return loss <= kTimes * highest;
}

std::string LossMonitor::to_text() const {
  Value::Array all;
  for (const auto& [precision, s] : by_precision_)
    all.push_back(
        Value::object({{"precision", precision}, {"count", s.count}, {"mean", s.mean}, {"variance", s.variance}}));
  return to_json(Value::array(std::move(all)));
}

LossMonitor LossMonitor::from_text(const std::string& text, std::int64_t window, const std::vector<std::string>& maps) {
  LossMonitor monitor(window);
  if (text.empty()) return monitor;  // a checkpoint from before losses were watched
  const Value all = parse_json(text, "the checkpoint's loss statistics", ErrorKind::kCheckpoint);
  for (const Value& one : all.as_array()) {
    const std::string key = one.find("precision") != nullptr ? one.at("precision").as_string()
                                                             : key_of_number(one.at("bits").as_int(), maps);
    if (key.empty()) continue;
    monitor.by_precision_[key] = {.count = one.at("count").as_int(),
                                  .mean = one.at("mean").as_double(),
                                  .variance = one.at("variance").as_double()};
  }
  return monitor;
}

}  // namespace qat

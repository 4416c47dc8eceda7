#include "src/train/precision_usage.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace qat {
namespace {

template <typename Key, typename Number>
double total_of(const std::map<Key, Number>& parts) {
  double total = 0.0;
  for (const auto& [key, part] : parts) total += static_cast<double>(part);
  return total;
}

// {"<key>": ..., "share": ...} of each.
template <typename Key, typename Number>
Value shares(const char* name, const std::map<Key, Number>& parts) {
  const double total = total_of(parts);
  Value::Array all;
  for (const auto& [key, part] : parts)
    all.push_back(Value::object({{name, Value(key)}, {"share", static_cast<double>(part) / total}}));
  return Value::array(std::move(all));
}

template <typename Key, typename Number>
std::string shares_text(const std::map<Key, Number>& parts) {
  const double total = total_of(parts);
  std::string text;
  for (const auto& [key, part] : parts)
    text += fmt::format("{}{}: {:.1f} %", text.empty() ? "" : ", ", key, 100.0 * static_cast<double>(part) / total);
  return text;
}

Value report_of(const LossChanges& changes) {
  return Value::object({{"count", changes.count},
                        {"mean_loss_change", changes.mean()},
                        {"mean_absolute_loss_change", changes.mean_magnitude()}});
}

Value state_of(const LossChanges& changes) {
  return Value::object({{"count", changes.count}, {"sum", changes.sum}, {"magnitude", changes.magnitude}});
}

LossChanges changes_from(const Value& value) {
  return {.count = value.at("count").as_int(),
          .sum = value.at("sum").as_double(),
          .magnitude = value.at("magnitude").as_double()};
}

}  // namespace

void PrecisionUsage::add_pass(const std::string& name, const std::map<int, double>& macs) {
  ++passes_[name];
  for (const auto& [bits, count] : macs) macs_[bits] += count;
}

std::optional<PrecisionUsage::Change> PrecisionUsage::add_loss(const std::string& name, double loss) {
  if (!std::isfinite(loss)) return std::nullopt;
  std::optional<Change> change;
  if (!last_name_.empty()) {
    change = {.loss = loss - last_loss_, .switched = name != last_name_};
    LossChanges& of_kind = change->switched ? switched_ : steady_;
    ++of_kind.count;
    of_kind.sum += change->loss;
    of_kind.magnitude += std::abs(change->loss);
  }
  last_name_ = name;
  last_loss_ = loss;
  return change;
}

Value PrecisionUsage::report() const {
  return Value::object({{"passes", shares("precision", passes_)},
                        {"macs", shares("weight_bits", macs_)},
                        {"switches", report_of(switched_)},
                        {"steady", report_of(steady_)}});
}

std::string PrecisionUsage::passes_text() const { return shares_text(passes_); }
std::string PrecisionUsage::macs_text() const { return shares_text(macs_); }

std::string PrecisionUsage::to_text() const {
  Value::Array passes, macs;
  for (const auto& [name, count] : passes_) passes.push_back(Value::object({{"precision", name}, {"count", count}}));
  for (const auto& [bits, count] : macs_) macs.push_back(Value::object({{"bits", bits}, {"count", count}}));
  return to_json(Value::object({{"passes", Value::array(std::move(passes))},
                                {"macs", Value::array(std::move(macs))},
                                {"switched", state_of(switched_)},
                                {"steady", state_of(steady_)},
                                {"last_name", last_name_},
                                {"last_loss", last_loss_}}));
}

PrecisionUsage PrecisionUsage::from_text(const std::string& text) {
  PrecisionUsage usage;
  if (text.empty()) return usage;
  const Value state = parse_json(text, "the checkpoint's account of precisions", ErrorKind::kCheckpoint);
  for (const Value& pass : state.at("passes").as_array())
    usage.passes_[pass.at("precision").as_string()] = pass.at("count").as_int();
  for (const Value& macs : state.at("macs").as_array())
    usage.macs_[static_cast<int>(macs.at("bits").as_int())] = macs.at("count").as_double();
  usage.switched_ = changes_from(state.at("switched"));
  usage.steady_ = changes_from(state.at("steady"));
  usage.last_name_ = state.at("last_name").as_string();
  usage.last_loss_ = state.at("last_loss").as_double();
  return usage;
}

}  // namespace qat

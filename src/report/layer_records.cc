#include "src/report/layer_records.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>

namespace qat {
namespace {

double number_or_nan(const Value& object, const char* key) {
  const Value& value = object.at(key);
  return value.is_null() ? std::numeric_limits<double>::quiet_NaN() : value.as_double();
}

bool is_width(const std::string& precision) {
  return !precision.empty() && std::all_of(precision.begin(), precision.end(),
                                           [](char c) { return std::isdigit(static_cast<unsigned char>(c)) != 0; });
}

}  // namespace

// What is not a number is written as null.
Value to_value(const LayerFigures& figures) {
  return Value::object({{"name", figures.name},
                        {"bits", figures.bits},
                        {"grad_norm", figures.grad_norm},
                        {"zero_codes", figures.zero_codes},
                        {"clipped", figures.clipped}});
}

LayerFigures layer_figures_of(const Value& value) {
  return {.name = value.at("name").as_string(),
          .bits = static_cast<int>(value.at("bits").as_int()),
          .grad_norm = number_or_nan(value, "grad_norm"),
          .zero_codes = number_or_nan(value, "zero_codes"),
          .clipped = number_or_nan(value, "clipped")};
}

Value to_value(const LayerRecord& record) {
  Value::Array layers;
  for (const LayerFigures& figures : record.layers) layers.push_back(to_value(figures));
  return Value::object(
      {{"step", record.step}, {"precision", record.precision}, {"layers", Value::array(std::move(layers))}});
}

LayerRecord layer_record_of(const Value& line) {
  LayerRecord record{.step = line.at("step").as_int(), .precision = line.at("precision").as_string()};
  for (const Value& figures : line.at("layers").as_array()) record.layers.push_back(layer_figures_of(figures));
  return record;
}

EventSummary layer_summary(const LayerRecord& record) {
  EventSummary summary;
  const std::string at = record.precision + (is_width(record.precision) ? "bit" : "");
  for (const LayerFigures& layer : record.layers) {
    const auto add = [&](const char* group, double value) {
      if (std::isfinite(value)) summary.scalar(fmt::format("{}/{}/{}", group, layer.name, at), value);
    };
    add("grad_norm", layer.grad_norm);
    add("zero_codes", layer.zero_codes);
    add("clipped", layer.clipped);
  }
  return summary;
}

}  // namespace qat

// Rules in words.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "src/config/field_table.h"

namespace qat {
namespace {

std::string bound(double value) { return fmt::format("{}", value); }

std::string numeric_range(const Rule& rule) {
  const bool has_min = std::isfinite(rule.min), has_max = std::isfinite(rule.max);
  if (has_min && has_max) {
    if (rule.open_min || rule.open_max)
      return fmt::format(" {} {} and {} {}", rule.open_min ? "above" : "of at least", bound(rule.min),
                         rule.open_max ? "below" : "at most", bound(rule.max));
    return fmt::format(" from {} to {}", bound(rule.min), bound(rule.max));
  }
  if (has_min) return fmt::format(" {} {}", rule.open_min ? "above" : "of at least", bound(rule.min));
  if (has_max) return fmt::format(" {} {}", rule.open_max ? "below" : "of at most", bound(rule.max));
  return "";
}

std::string text_rule(const Rule& rule) {
  if (rule.choices.empty()) return rule.empty_allowed ? "text, or empty" : "text, not empty";
  return fmt::format("one of {}{}", fmt::join(rule.choices, ", "), rule.empty_allowed ? ", or empty" : "");
}

std::string integer_rule(const Rule& rule) {
  const std::string numbers = rule.widths.empty() ? "an integer" + numeric_range(rule) : list_of_ints(rule.widths);
  return rule.zero.empty() ? numbers : fmt::format("{}, or \"{}\"", numbers, rule.zero);
}

}  // namespace

std::string list_of_ints(const std::vector<int>& ascending) {
  std::vector<std::string> runs;
  for (std::size_t i = 0; i < ascending.size();) {
    std::size_t last = i;
    while (last + 1 < ascending.size() && ascending[last + 1] == ascending[last] + 1) ++last;
    runs.push_back(last >= i + 2 ? fmt::format("{}..{}", ascending[i], ascending[last]) : std::to_string(ascending[i]));
    i = last >= i + 2 ? last + 1 : i + 1;
  }
  if (runs.size() <= 1) return runs.empty() ? "" : runs[0];
  const std::string tail = std::move(runs.back());
  runs.pop_back();
  return fmt::format("{} or {}", fmt::join(runs, ", "), tail);
}

template <typename Owner>
std::string element_expectation(const Field<Owner>& field) {
  using F = Field<Owner>;
  const std::string null = field.is_optional() ? ", or null" : "";
  if (field.template holds<bool>() || field.template holds<std::optional<bool>>()) return "true or false" + null;
  if (field.template holds<double>() || field.template holds<std::optional<double>>())
    return "a number" + numeric_range(field.rule) + null;
  if (field.is_text()) return text_rule(field.rule);
  if (field.template holds<std::vector<std::string>>()) return "text, not empty";
  if (with_element(field, [](const auto&) {})) return "an object";
  static_assert(std::variant_size_v<typename F::Ref> == 17, "a new type of value needs its words here");
  return integer_rule(field.rule) + null;
}

template <typename Owner>
std::string expectation(const Field<Owner>& field) {
  const bool ints = field.template holds<std::vector<int>>();
  const bool texts = field.template holds<std::vector<std::string>>();
  if (with_element(field, [](const auto&) {})) return "a list of objects";
  if (!ints && !texts) return element_expectation(field);
  const Rule& rule = field.rule;
  const char* of = !ints ? "texts" : rule.widths.empty() ? "numbers, each " : "widths, each ";
  return fmt::format("a list of {}{}{}{}", of, ints ? integer_rule(rule) : "", rule.unique ? ", no two equal" : "",
                     rule.empty_allowed ? "" : ", not empty");
}

template std::string expectation(const Field<RunConfig>&);
template std::string expectation(const Field<LayerOverride>&);
template std::string expectation(const Field<WidthAdapter>&);
template std::string expectation(const Field<WidthMethod>&);
template std::string expectation(const Field<WidthFactor>&);
template std::string expectation(const Field<LrMilestone>&);
template std::string element_expectation(const Field<RunConfig>&);
template std::string element_expectation(const Field<LayerOverride>&);
template std::string element_expectation(const Field<WidthAdapter>&);
template std::string element_expectation(const Field<WidthMethod>&);
template std::string element_expectation(const Field<WidthFactor>&);
template std::string element_expectation(const Field<LrMilestone>&);

}  // namespace qat

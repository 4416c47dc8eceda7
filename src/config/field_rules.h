// What the table of keys is written with: one key, and the rules that values follow. Internal to src/config.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "kernels/common/bit_width.h"
#include "src/config/field_table.h"

namespace qat {

// The keys of single sections, in order (field_table.cc has the others).
void add_comm_fields(std::vector<Field<RunConfig>>& fields);
void add_distill_fields(std::vector<Field<RunConfig>>& fields);
void add_report_fields(std::vector<Field<RunConfig>>& fields);

}  // namespace qat

namespace qat::rules {

// An enumeration's names are what its key may be, unless the rule says that only some of them are meant.
template <typename T, typename Owner>
Field<Owner> key(std::string path, const FieldRef<T, Owner>& ref, Rule rule, std::string unit, std::string meaning,
                 std::vector<std::string> aliases = {}) {
  if constexpr (NamedEnum<T>) {
    if (rule.choices.empty()) rule.choices = enum_names<T>();
    return {std::move(path), choice(ref), std::move(rule), std::move(unit), std::move(meaning), std::move(aliases)};
  } else {
    return {std::move(path), ref, std::move(rule), std::move(unit), std::move(meaning), std::move(aliases)};
  }
}
// Empty: not given.
template <NamedEnum E, typename Owner>
Field<Owner> optional_key(std::string path, const FieldRef<std::optional<E>, Owner>& ref, std::string meaning) {
  return {std::move(path), choice(ref), {.choices = enum_names<E>(), .empty_allowed = true}, "", std::move(meaning)};
}

constexpr double kMostOfAny = 1e6;  // batches, ranks, threads, files: a bound that says "this is a slip"

inline Rule any() { return {}; }
inline Rule from(double min) { return {.min = min}; }
inline Rule between(double min, double max) { return {.min = min, .max = max}; }
// What fp32 holds with all its digits: a smaller number would lose them, or be 0; a larger one would be infinite.
inline Rule normal_float() { return between(1.2e-38, 3.4e38); }
inline Rule fraction() { return {.min = 0, .max = 1, .open_max = true}; }
inline Rule dropout() { return between(0, 0.999); }  // fp32 rounds what is nearer to 1, and nothing would be kept
inline Rule one_of(std::vector<std::string> choices) { return {.choices = std::move(choices)}; }
inline Rule maybe_empty() { return {.empty_allowed = true}; }

// first..last and 32, and 0 where it stands for "as scheduled".
inline Rule bits(int last, bool zero, int first = BitWidth::kMinUsual) {
  Rule rule;
  if (zero) rule.widths.push_back(0);
  for (int width = first; width <= last; ++width) rule.widths.push_back(width);
  rule.widths.push_back(BitWidth::kFull);
  return rule;
}
// Of weights, which may have 1 bit where their quantizer has (quantizer_rules.cc).
inline Rule width() { return bits(BitWidth::kMax, /*zero=*/false, BitWidth::kMin); }
// Or what the range test finds.
inline Rule width_or_auto() {
  Rule rule = width();
  rule.zero = "auto";
  return rule;
}
inline Rule width_or_zero() { return bits(BitWidth::kMax, /*zero=*/true); }
// What is int8 codes or not quantized: backward's gradients, attention's keys and values.
inline Rule code_width(bool zero = false) { return bits(8, zero); }
inline Rule list(Rule rule, bool empty_allowed, bool unique) {
  rule.empty_allowed = empty_allowed;
  rule.unique = unique;
  return rule;
}

// Parts of the table that have files of their own.
void add_schedules(std::vector<Field<RunConfig>>& fields);
void add_range_test(std::vector<Field<RunConfig>>& fields);

inline Rule preset_name() {
  Rule rule{.empty_allowed = true};
  std::string name;
  for (const char c : gpt2_preset_names() + ",") {
    if (c == ',') {
      rule.choices.push_back(std::move(name));
      name.clear();
    } else if (c != ' ') {
      name += c;
    }
  }
  return rule;
}

using Fields = std::vector<Field<RunConfig>>;

// Keys of quantizers and of where their ranges come from (quantizer_fields.cc).
void add_quantizers(Fields& fields);

}  // namespace qat::rules

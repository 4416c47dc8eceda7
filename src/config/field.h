// One configuration key: where its value lives, what it may be, and what it means. The table of them all
// (field_table.h) is what loading, overrides, the JSON Schema, the documentation and the effective configuration are
// made from.
#pragma once

#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <variant>
#include <vector>

#include "src/base/named_enum.h"
#include "src/model/lora_config.h"
#include "src/quant/quant_config.h"
#include "src/schedule/schedule_config.h"

namespace qat {

// "quant.weight" of "quant.weight.method"; "" of "run".
inline std::string parent_of(const std::string& path) {
  const std::size_t dot = path.rfind('.');
  return dot == std::string::npos ? "" : path.substr(0, dot);
}
// "method" of "quant.weight.method".
inline std::string last_part(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// What a key's value may be, beyond its C++ type. Applies to each element of a list.
struct Rule {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool open_min = false;             // above min, not equal to it
  bool open_max = false;             // below max, not equal to it
  std::vector<int> widths;           // integers: one of these, ascending
  std::vector<std::string> choices;  // strings: one of these
  std::string zero;                  // integers: the text that stands for 0, which is then none of the widths
  bool empty_allowed = false;        // strings and lists
  bool unique = false;               // lists: no element twice
};

template <typename T, typename Owner>
using FieldRef = std::function<T&(Owner&)>;

// What a key's list of objects may be made of (element_fields.h).
template <typename T>
concept ListedObject = std::is_same_v<T, LayerOverride> || std::is_same_v<T, WidthAdapter> ||
    std::is_same_v<T, WidthMethod> || std::is_same_v<T, WidthFactor> || std::is_same_v<T, LrMilestone>;

// A value of a named enumeration, which is text in files: one of the field's choices; empty for an optional one that is
// not given.
template <typename Owner>
struct ChoiceRef {
  std::function<std::string(const Owner&)> get;
  std::function<void(Owner&, const std::string&)> set;
};

// Owner: RunConfig, or an element of a list of objects.
template <typename Owner>
struct Field {
  using Ref = std::variant<FieldRef<bool, Owner>, FieldRef<int, Owner>, FieldRef<std::int64_t, Owner>,
                           FieldRef<std::uint64_t, Owner>, FieldRef<double, Owner>, FieldRef<std::string, Owner>,
                           FieldRef<std::vector<int>, Owner>, FieldRef<std::vector<std::string>, Owner>,
                           FieldRef<std::optional<bool>, Owner>, FieldRef<std::optional<std::int64_t>, Owner>,
                           FieldRef<std::optional<double>, Owner>, FieldRef<std::vector<LayerOverride>, Owner>,
                           FieldRef<std::vector<WidthAdapter>, Owner>, FieldRef<std::vector<WidthMethod>, Owner>,
                           FieldRef<std::vector<WidthFactor>, Owner>, FieldRef<std::vector<LrMilestone>, Owner>,
                           ChoiceRef<Owner>>;
  std::string path;  // "train.steps"
  Ref ref;
  Rule rule;
  std::string unit;                  // "tokens"; empty for what has none
  std::string meaning;               // one sentence without a final stop
  std::vector<std::string> aliases;  // what other programs call it: suggested, not accepted

  template <typename T>
  bool holds() const {
    return std::holds_alternative<FieldRef<T, Owner>>(ref);
  }
  bool is_text() const { return holds<std::string>() || std::holds_alternative<ChoiceRef<Owner>>(ref); }
  // A number or a flag that may be null: not given.
  bool is_optional() const {
    return holds<std::optional<bool>>() || holds<std::optional<std::int64_t>>() || holds<std::optional<double>>();
  }
};

// Calls visitor(T()) with an empty element if the key is a list of objects; whether it is one.
template <typename Owner, typename Visitor>
bool with_element(const Field<Owner>& field, Visitor&& visitor) {
  const auto visit = [&]<ListedObject T>(const FieldRef<std::vector<T>, Owner>*) { visitor(T()); };
  return std::visit(
      [&](const auto& ref) {
        if constexpr (requires { visit(&ref); }) {
          visit(&ref);
          return true;
        } else {
          return false;
        }
      },
      field.ref);
}

template <NamedEnum E, typename Owner>
ChoiceRef<Owner> choice(const FieldRef<E, Owner>& ref) {
  // A reference needs an owner that may change; reading one changes nothing.
  return {.get = [=](const Owner& owner) -> std::string { return enum_name(ref(const_cast<Owner&>(owner))); },
          .set = [=](Owner& owner, const std::string& name) { ref(owner) = enum_value<E>(name).value(); }};
}
template <NamedEnum E, typename Owner>
ChoiceRef<Owner> choice(const FieldRef<std::optional<E>, Owner>& ref) {
  return {.get = [=](const Owner& owner) -> std::string {
            const std::optional<E>& value = ref(const_cast<Owner&>(owner));
            return value ? enum_name(*value) : "";
          },
          .set = [=](Owner& owner, const std::string& name) { ref(owner) = enum_value<E>(name); }};
}

// at(&RunConfig::train, &TrainConfig::steps): the member of the member.
template <typename Owner, typename T>
FieldRef<T, Owner> at(T Owner::*member) {
  return [=](Owner& owner) -> T& { return owner.*member; };
}
template <typename Owner, typename A, typename T>
FieldRef<T, Owner> at(A Owner::*section, T A::*member) {
  return [=](Owner& owner) -> T& { return (owner.*section).*member; };
}
template <typename Owner, typename A, typename B, typename T>
FieldRef<T, Owner> at(A Owner::*section, B A::*part, T B::*member) {
  return [=](Owner& owner) -> T& { return ((owner.*section).*part).*member; };
}

}  // namespace qat

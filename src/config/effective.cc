#include "src/config/effective.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "src/config/element_fields.h"
#include "src/config/field_table.h"

namespace qat {
namespace {

template <typename T>
Value to_value(const T& value) {
  return Value(value);
}
template <typename T>
Value to_value(const std::optional<T>& value) {
  return value ? Value(*value) : Value();
}
template <typename T>
Value to_value(const std::vector<T>& values) {
  return Value::array(values);
}
template <ListedObject T>
Value to_value(const std::vector<T>& elements) {
  Value list = Value::array();
  for (const T& element : elements) list.push_back(element_to_json(element));
  return list;
}

template <typename Owner>
Value value_of(const Field<Owner>& field, Owner& owner) {
  if (const auto* choice = std::get_if<ChoiceRef<Owner>>(&field.ref)) return Value(choice->get(owner));
  return std::visit(
      [&](const auto& ref) {
        if constexpr (std::is_invocable_v<decltype(ref), Owner&>) {
          if constexpr (std::is_same_v<std::decay_t<decltype(ref(owner))>, int>)
            if (!field.rule.zero.empty() && ref(owner) == 0) return Value(field.rule.zero);
          return to_value(ref(owner));
        }
        return Value();
      },
      field.ref);
}

// The object that a dotted path's last part is a member of; made where it is missing.
Value& owner_of(Value& root, std::string_view path) {
  Value* object = &root;
  for (std::size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
    const std::string_view part = path.substr(0, dot);
    Value* found = object->find(part);
    object = found == nullptr ? &object->set(part, Value::object()) : found;
    path.remove_prefix(dot + 1);
  }
  return *object;
}

}  // namespace

template <ListedObject T>
Value element_to_json(T element) {
  Value item = Value::object();
  for (const auto& field : element_table<T>().fields) item.set(field.path, value_of(field, element));
  return item;
}
template Value element_to_json(LayerOverride);
template Value element_to_json(WidthAdapter);
template Value element_to_json(WidthMethod);
template Value element_to_json(WidthFactor);
template Value element_to_json(LrMilestone);

std::string Origin::text() const {
  switch (kind) {
    case Kind::kDefault:
      return "default";
    case Kind::kPreset:
      return "preset " + place;
    case Kind::kFile:
      return place;
    case Kind::kSet:
      return "--set";
  }
  return "";
}

Value config_to_json(const RunConfig& config) {
  RunConfig copy = config;  // the table's references are mutable
  Value root = Value::object({{"version", kConfigVersion}});
  for (const auto& field : run_fields()) {
    owner_of(root, field.path).set(last_part(field.path), value_of(field, copy));
  }
  return root;
}

Value config_value(const RunConfig& config, const std::string& path) {
  RunConfig copy = config;
  const Field<RunConfig>* field = find_field(path);
  QAT_CHECK(field != nullptr, "no configuration key " + path);
  return value_of(*field, copy);
}

std::uint64_t config_hash(const RunConfig& config) {
  RunConfig hashed = config;
  hashed.run.dir.clear();
  hashed.run.resume.clear();
  hashed.model.preset.clear();
  hashed.watchdog = {};
  hashed.report = {};
  const std::string text = to_json(config_to_json(hashed));
  return XXH3_64bits(text.data(), text.size());
}

std::string print_config(const RunConfig& config, const Origins& origins) {
  RunConfig copy = config;
  struct Line {
    std::string path, value, origin;
  };
  std::vector<Line> lines;
  std::size_t path_width = 0, value_width = 0;
  constexpr std::size_t kWidestAligned = 40;  // a long list of files must not push every origin to the right
  for (const auto& field : run_fields()) {
    const auto origin = origins.find(field.path);
    lines.push_back(
        {field.path, to_json(value_of(field, copy)), (origin == origins.end() ? Origin{} : origin->second).text()});
    path_width = std::max(path_width, lines.back().path.size());
    if (lines.back().value.size() <= kWidestAligned) value_width = std::max(value_width, lines.back().value.size());
  }
  std::string text;
  for (const Line& line : lines)
    text += fmt::format("{:<{}} = {:<{}}  {}\n", line.path, path_width, line.value, value_width, line.origin);
  return text;
}

}  // namespace qat

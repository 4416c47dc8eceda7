#include "src/config/schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "src/base/json.h"
#include "src/config/effective.h"
#include "src/config/element_fields.h"
#include "src/config/field_table.h"

namespace qat {
namespace {

template <typename Owner>
void add_number_rule(const Rule& rule, bool integer, Value& schema) {
  if (!rule.widths.empty()) {
    Value values = Value::array(rule.widths);
    if (!rule.zero.empty()) values.push_back(rule.zero);
    schema.set("enum", std::move(values));
    return;
  }
  const auto bound = [&](double value) { return integer ? Value(static_cast<std::int64_t>(value)) : Value(value); };
  if (std::isfinite(rule.min)) schema.set(rule.open_min ? "exclusiveMinimum" : "minimum", bound(rule.min));
  if (std::isfinite(rule.max)) schema.set(rule.open_max ? "exclusiveMaximum" : "maximum", bound(rule.max));
}

template <typename Owner>
Value object_schema(const std::vector<Field<Owner>>& fields);

// The schema of one scalar, or of a list's element.
template <typename Owner>
Value element_schema(const Field<Owner>& field) {
  using F = Field<Owner>;
  Value schema = Value::object();
  const F& f = field;
  const Rule& rule = field.rule;
  const bool list = f.template holds<std::vector<std::string>>() || f.template holds<std::vector<int>>();
  const auto set_type = [&](const char* type) {
    schema.set("type", f.is_optional() ? Value::array(std::vector<std::string>{type, "null"}) : Value(type));
  };
  const auto of_objects = [&]<ListedObject T>(const T&) {
    schema = object_schema(element_table<T>().fields);
    schema.set("required", Value::array(element_table<T>().required));
  };
  if (with_element(f, of_objects)) {
  } else if (f.template holds<bool>() || f.template holds<std::optional<bool>>()) {
    set_type("boolean");
  } else if (f.is_text() || f.template holds<std::vector<std::string>>()) {
    schema.set("type", "string");
    std::vector<std::string> choices = rule.choices;
    if (!choices.empty() && rule.empty_allowed) choices.insert(choices.begin(), "");
    if (!choices.empty()) schema.set("enum", Value::array(choices));
    if (choices.empty() && (list || !rule.empty_allowed)) schema.set("minLength", 1);
  } else {
    const bool integer = !f.template holds<double>() && !f.template holds<std::optional<double>>();
    if (rule.zero.empty()) set_type(integer ? "integer" : "number");  // else the list of values says all
    add_number_rule<Owner>(rule, integer, schema);
  }
  return schema;
}

template <typename Owner>
Value field_schema(const Field<Owner>& field) {
  const Field<Owner>& f = field;
  const bool list = f.template holds<std::vector<int>>() || f.template holds<std::vector<std::string>>() ||
                    with_element(f, [](const auto&) {});
  Value schema = element_schema(field);
  if (list) {
    schema = Value::object({{"type", "array"}, {"items", std::move(schema)}});
    if (!field.rule.empty_allowed) schema.set("minItems", 1);
    if (field.rule.unique) schema.set("uniqueItems", true);
  }
  schema.set("description", field.unit.empty() ? field.meaning : fmt::format("{} [{}]", field.meaning, field.unit));
  return schema;
}

template <typename Owner>
Value object_schema(const std::vector<Field<Owner>>& fields) {
  Value properties = Value::object();
  for (const auto& field : fields) properties.set(field.path, field_schema(field));
  return Value::object({{"type", "object"}, {"additionalProperties", false}, {"properties", std::move(properties)}});
}

// The keys of a section and of the sections in it.
Value section_schema(const Section& section) {
  const RunConfig defaults;
  Value properties = Value::object();
  for (const auto& field : run_fields()) {
    if (parent_of(field.path) != section.path) continue;
    Value schema = field_schema(field);
    schema.set("default", config_value(defaults, field.path));
    properties.set(field.path.substr(section.path.size() + 1), std::move(schema));
  }
  for (const Section& sub : config_sections()) {
    if (parent_of(sub.path) == section.path)
      properties.set(sub.path.substr(section.path.size() + 1), section_schema(sub));
  }
  return Value::object({{"type", "object"},
                        {"description", section.meaning},
                        {"additionalProperties", false},
                        {"properties", std::move(properties)}});
}

std::string cell(std::string text) {  // a table's cells are separated by |
  for (std::size_t at = text.find('|'); at != std::string::npos; at = text.find('|', at + 2)) text.insert(at, "\\");
  return text;
}

template <typename Owner>
std::string row(const Field<Owner>& field, const std::string& key, const std::string& standard) {
  return fmt::format("| `{}` | {} | {} | {} | {} |\n", key, standard, cell(expectation(field)), field.unit,
                     cell(field.meaning));
}

template <ListedObject T>
std::string element_rows(const T& standard) {
  const Value values = element_to_json(standard);
  const ElementTable<T>& table = element_table<T>();
  std::string text;
  for (const auto& field : table.fields) {
    const bool required = std::find(table.required.begin(), table.required.end(), field.path) != table.required.end();
    text += row(field, field.path, required ? "" : fmt::format("`{}`", to_json(values.at(field.path))));
  }
  return text;
}

constexpr std::string_view kIntroduction = R"(# Configuration

This page is generated: `qat_dist schema --markdown > docs/configuration.md`.

A run is described by one JSON file, `qat_dist --config FILE`; `//` and `/* */` comments are allowed in it. Every key may
be left out. `--set section.key=value`, as often as wanted, goes over the file; the value is JSON, or else text:
`--set train.steps=100 --set quant.widths=[4,8,32] --set run.dir=runs/b`. `--print-config` shows every value and where it
came from, and `run.dir/config.json` holds the values that a run used; it can be given to `--config` again.

With `"$schema": "schema.json"` (or another path to `configs/schema.json`) an editor completes and checks the keys. An
unknown key, a value of a wrong type or out of range, and values that do not fit each other are errors; all of them are
reported at once, each with file, line, value and rule (exit code 2). `"version"` is the version of this table of keys
and is {} now; `"comment"` may hold any text.

A preset fills in sizes: the defaults, then the file's preset, then the file's own sizes, then a preset from `--set`,
then sizes from `--set`; later ones win.
)";

}  // namespace

std::string configuration_schema() {
  const Value text = Value::object({{"type", "string"}});
  Value properties =
      Value::object({{"$schema", text}, {"comment", text}, {"version", Value::object({{"const", kConfigVersion}})}});
  for (const Section& section : config_sections()) {
    if (parent_of(section.path).empty()) properties.set(section.path, section_schema(section));
  }
  const Value schema = Value::object({{"$schema", "http://json-schema.org/draft-07/schema#"},
                                      {"title", "qat_dist run configuration"},
                                      {"type", "object"},
                                      {"additionalProperties", false},
                                      {"properties", std::move(properties)}});
  return to_json(schema, 2) + "\n";
}

std::string configuration_markdown() {
  const RunConfig defaults;
  std::string text = fmt::format(fmt::runtime(std::string(kIntroduction)), kConfigVersion);
  const std::string header = "\n| key | default | value | unit | meaning |\n| --- | --- | --- | --- | --- |\n";
  for (const Section& section : config_sections()) {
    text += fmt::format("\n## {}\n\n{}{}.\n{}", section.path, static_cast<char>(section.meaning[0] & ~0x20),
                        section.meaning.substr(1), header);
    for (const auto& field : run_fields()) {
      if (parent_of(field.path) != section.path) continue;
      text += row(field, field.path, fmt::format("`{}`", to_json(config_value(defaults, field.path))));
    }
    for (const auto& field : run_fields()) {
      if (parent_of(field.path) != section.path) continue;
      with_element(field, [&]<ListedObject T>(const T& element) {
        text += fmt::format("\nAn element of `{}`:\n{}", field.path, header) + element_rows(element);
      });
    }
  }
  return text;
}

}  // namespace qat

#include "src/config/reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <utility>

#include "src/base/nearest.h"
#include "src/config/element_fields.h"
#include "src/config/suggest.h"

namespace qat {
namespace {

bool in_range(double number, const Rule& rule) {
  return (rule.open_min ? number > rule.min : number >= rule.min) &&
         (rule.open_max ? number < rule.max : number <= rule.max);
}

bool fits(const Value& value, const Rule&, bool& out) {
  if (!value.is_bool()) return false;
  out = value.as_bool();
  return true;
}

template <std::integral T>
requires(!std::same_as<T, bool>) bool fits(const Value& value, const Rule& rule, T& out) {
  if (!rule.zero.empty() && value.is_string() && value.as_string() == rule.zero) {
    out = 0;
    return true;
  }
  if (!value.is_number()) return false;
  std::int64_t number = 0;
  if (value.is_int()) {
    number = value.as_int();
  } else {
    const double real = value.as_double();  // 8.0 and 1e3 are integers, as JSON Schema has it
    if (std::trunc(real) != real || std::abs(real) > 1e15) return false;
    number = static_cast<std::int64_t>(real);
  }
  if (!std::in_range<T>(number)) return false;
  if (!rule.widths.empty()) {
    if (std::find(rule.widths.begin(), rule.widths.end(), number) == rule.widths.end()) return false;
  } else if (!in_range(static_cast<double>(number), rule)) {
    return false;
  }
  out = static_cast<T>(number);
  return true;
}

bool fits(const Value& value, const Rule& rule, double& out) {
  if (!value.is_number() || !std::isfinite(value.as_double()) || !in_range(value.as_double(), rule)) return false;
  out = value.as_double();
  return true;
}

template <typename T>
bool fits(const Value& value, const Rule& rule, std::optional<T>& out) {
  if (value.is_null()) {
    out.reset();
    return true;
  }
  T given{};
  if (!fits(value, rule, given)) return false;
  out = given;
  return true;
}

// Paths and names go to the operating system and into messages.
bool is_plain_text(const std::string& text) {
  const auto control = [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7F; };
  return is_utf8(text) && std::none_of(text.begin(), text.end(), control);
}

bool fits(const Value& value, const Rule& rule, std::string& out) {
  if (!value.is_string()) return false;
  const std::string& text = value.as_string();
  if (text.empty() && !rule.empty_allowed) return false;
  const bool known = std::find(rule.choices.begin(), rule.choices.end(), text) != rule.choices.end();
  if (!text.empty() && !rule.choices.empty() && !known) return false;
  if (!is_plain_text(text)) return false;
  out = text;
  return true;
}

// What a wrong value suggests about the mistake; empty if nothing.
template <typename T>
std::string hint(const Value& value, const Rule& rule) {
  if (!value.is_string()) return "";
  const std::string& text = value.as_string();
  if constexpr (std::is_same_v<T, std::string>) {
    if (!is_plain_text(text)) return " (it has control characters, or is not UTF-8)";
    if (const auto found = nearest(text, rule.choices)) return fmt::format("; did you mean \"{}\"?", *found);
    return "";
  } else {
    T ignored{};
    try {
      if (fits(parse_json(text, ""), rule, ignored)) return ", without quotes";
      return "";
    } catch (const Error&) {
      return "";  // not JSON either
    }
  }
}

}  // namespace

std::string shown(const Value& value) {
  constexpr std::size_t kLongest = 100;
  std::string text = to_json(value);
  if (text.size() <= kLongest) return text;
  std::size_t end = kLongest;
  while ((static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;  // not inside a character
  return text.substr(0, end) + "...";
}

std::string shown_key(const std::string& key) {
  const std::string quoted = shown(Value(key));
  return quoted.back() == '"' ? quoted.substr(1, quoted.size() - 2) : quoted.substr(1);
}

void ConfigReader::add_problem(std::string line) {
  if (problems_.size() < kMostProblems) {
    problems_.push_back(std::move(line));
  } else {
    ++more_problems_;
  }
}

std::vector<std::string> ConfigReader::problems() const {
  std::vector<std::string> lines = problems_;
  if (more_problems_ > 0) lines.push_back(fmt::format("... and {} more", more_problems_));
  return lines;
}

std::string ConfigReader::place(const Value& value) const {
  return kind_ == Origin::Kind::kSet ? "--set" : value.where();
}

void ConfigReader::wrong(const std::string& path, const Value& value, const std::string& rule) {
  add_problem(fmt::format("{}: {} = {}: {}", place(value), path, shown(value), rule));
}

void ConfigReader::unknown(const std::string& section, const std::string& shown_path, const Value::Member& member) {
  if (problems_.size() >= kMostProblems) return add_problem("");  // suggestions take time; this line is only counted
  const std::string where = kind_ == Origin::Kind::kSet ? "--set" : member.value.where(member.line);
  add_problem(fmt::format("{}: {}: unknown key; {}", where, shown_path, suggest_key(section, member.key)));
}

void ConfigReader::read(const std::vector<Value>& roots, Origin::Kind kind) {
  kind_ = kind;
  apply_preset(roots);
  for (const Value& root : roots) read_section(root, "");
}

void ConfigReader::apply_preset(const std::vector<Value>& roots) {
  for (const Value& root : roots) {
    if (!root.is_object()) continue;
    const Value* model = root.find("model");
    if (model == nullptr || !model->is_object()) continue;
    const Value* preset = model->find("preset");
    if (preset == nullptr || !preset->is_string() || !apply_gpt2_preset(preset->as_string(), config_.model)) continue;
    for (const char* path : {"model.n_layer", "model.n_head", "model.n_embd", "model.n_positions", "model.vocab_size"})
      origins_[path] = {Origin::Kind::kPreset, preset->as_string()};
  }
}

void ConfigReader::read_section(const Value& value, const std::string& section) {
  if (!value.is_object()) {
    wrong(section.empty() ? "the configuration" : section, value, "must be an object");
    for (const auto& field : run_fields()) {
      if (field.path.starts_with(section + ".")) failed_.insert(field.path);
    }
    return;
  }
  for (const Value::Member& member : value.as_object()) {
    if (section.empty() && read_top_level(member)) continue;
    const std::string path = section.empty() ? member.key : section + "." + member.key;
    // A key holds no dot: "train.steps" at the top is a mistake that has its own message.
    const bool dotted = member.key.find('.') != std::string::npos;
    if (const Field<RunConfig>* field = dotted ? nullptr : find_field(path)) {
      if (!assign(*field, config_, path, member.value)) continue;
      origins_[path] = {kind_, kind_ == Origin::Kind::kFile ? member.value.where() : ""};
    } else if (!dotted && find_section(path) != nullptr) {
      read_section(member.value, path);
    } else {
      unknown(section, (section.empty() ? "" : section + ".") + shown_key(member.key), member);
    }
  }
}

bool ConfigReader::read_top_level(const Value::Member& member) {
  if (member.key == "version") {
    const Value& version = member.value;
    if (!version.is_int() || version.as_int() != kConfigVersion)
      wrong("version", version, fmt::format("must be {}, the version that this program reads", kConfigVersion));
    return true;
  }
  if (member.key != "$schema" && member.key != "comment") return false;
  if (!member.value.is_string()) wrong(member.key, member.value, "must be text");
  return true;
}

template <typename Owner>
bool ConfigReader::assign(const Field<Owner>& field, Owner& owner, const std::string& path, const Value& value) {
  const bool good = std::visit(
      [&](const auto& ref) {
        if constexpr (std::is_same_v<std::decay_t<decltype(ref)>, ChoiceRef<Owner>>) {
          std::string parsed;
          if (!parse(field, path, value, parsed)) return false;
          ref.set(owner, parsed);
        } else {
          auto parsed = ref(owner);
          if (!parse(field, path, value, parsed)) return false;
          ref(owner) = std::move(parsed);
        }
        return true;
      },
      field.ref);
  if (good) {
    failed_.erase(path);  // a later source mends what an earlier one got wrong, though its line stays
  } else {
    failed_.insert(path);
  }
  return good;
}

template <typename Owner, typename T>
bool ConfigReader::parse(const Field<Owner>& field, const std::string& path, const Value& value, T& out) {
  if (fits(value, field.rule, out)) return true;
  wrong(path, value, "must be " + element_expectation(field) + hint<T>(value, field.rule));
  return false;
}

template <typename Owner, typename T>
bool ConfigReader::parse(const Field<Owner>& field, const std::string& path, const Value& value, std::vector<T>& out) {
  const Rule element{.min = field.rule.min, .max = field.rule.max, .widths = field.rule.widths};
  if (!value.is_array() || (value.as_array().empty() && !field.rule.empty_allowed)) {
    T alone{};
    const std::string mend = fits(value, element, alone) ? fmt::format(", such as [{}]", shown(value)) : "";
    wrong(path, value, "must be " + expectation(field) + mend);
    return false;
  }
  out.clear();
  bool good = true;
  for (std::size_t i = 0; i < value.as_array().size(); ++i) {
    const Value& item = value.as_array()[i];
    T parsed{};
    if (!fits(item, element, parsed)) {
      wrong(fmt::format("{}[{}]", path, i), item, "must be " + element_expectation(field) + hint<T>(item, element));
      good = false;
    } else if (field.rule.unique && std::find(out.begin(), out.end(), parsed) != out.end()) {
      wrong(fmt::format("{}[{}]", path, i), item, "must not be there twice");
      good = false;
    } else {
      out.push_back(std::move(parsed));
    }
  }
  return good;
}

template <typename Owner, ListedObject T>
bool ConfigReader::parse(const Field<Owner>& field, const std::string& path, const Value& value, std::vector<T>& out) {
  if (!value.is_array()) {
    wrong(path, value, "must be " + expectation(field));
    return false;
  }
  out.clear();
  std::erase_if(element_places_, [&](const auto& place) { return place.first.starts_with(path + "["); });
  bool good = true;
  for (std::size_t i = 0; i < value.as_array().size(); ++i) {
    T element;
    good = read_element(value.as_array()[i], path, fmt::format("{}[{}]", path, i), element) && good;
    out.push_back(std::move(element));
  }
  return good;
}

template <ListedObject T>
bool ConfigReader::read_element(const Value& value, const std::string& list, const std::string& path, T& out) {
  const ElementTable<T>& table = element_table<T>();
  if (!value.is_object()) {
    wrong(path, value, "must be an object, such as " + table.example);
    return false;
  }
  bool good = true;
  for (const Value::Member& member : value.as_object()) {
    const Field<T>* known = nullptr;
    for (const auto& field : table.fields) known = field.path == member.key ? &field : known;
    if (known == nullptr) {
      unknown(list + "[]", path + "." + shown_key(member.key), member);
      good = false;
    } else {
      good = assign(*known, out, path + "." + known->path, member.value) && good;
      element_places_[path + "." + known->path] = place(member.value);
    }
  }
  for (const std::string& key : table.required) {
    if (value.find(key) != nullptr) continue;
    wrong(path, value, fmt::format("must name its \"{}\"", key));
    return false;
  }
  if (good && !changes_something(out)) {
    wrong(path, value, "must change " + table.changes);
    return false;
  }
  return good;
}

}  // namespace qat

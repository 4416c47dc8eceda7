// Fills a RunConfig from JSON values by the table of keys, collecting what is wrong. Internal to the loader.
#pragma once

#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/config/effective.h"
#include "src/config/field_table.h"

namespace qat {

class ConfigReader {
 public:
  // Reads sources of one rank (the file, or all of --set): first the preset that the last of them names, then the keys
  // of each in turn. Each root is an object shaped like the configuration file.
  void read(const std::vector<Value>& roots, Origin::Kind kind);
  // A line of what is wrong; beyond kMostProblems they are only counted.
  void add_problem(std::string line);
  // Whether the key could not be read, so that it has a default in place of what the user meant.
  bool failed(const std::string& path) const { return failed_.contains(path); }

  const RunConfig& config() const { return config_; }
  const Origins& origins() const { return origins_; }
  // Where an element of a list of objects was given: "quant.overrides[1].layers" -> "run.json:7".
  const std::map<std::string, std::string>& element_places() const { return element_places_; }
  // The problems, a line each; the last one counts what is left out.
  std::vector<std::string> problems() const;

 private:
  static constexpr std::size_t kMostProblems = 50;

  void apply_preset(const std::vector<Value>& roots);
  void read_section(const Value& value, const std::string& section);
  bool read_top_level(const Value::Member& member);
  template <typename Owner>
  bool assign(const Field<Owner>& field, Owner& owner, const std::string& path, const Value& value);
  template <typename Owner, typename T>
  bool parse(const Field<Owner>& field, const std::string& path, const Value& value, T& out);
  template <typename Owner, typename T>
  bool parse(const Field<Owner>& field, const std::string& path, const Value& value, std::vector<T>& out);
  template <typename Owner, ListedObject T>
  bool parse(const Field<Owner>& field, const std::string& path, const Value& value, std::vector<T>& out);
  // `list`: the path of the list that it is an element of.
  template <ListedObject T>
  bool read_element(const Value& value, const std::string& list, const std::string& path, T& out);

  std::string place(const Value& value) const;
  void unknown(const std::string& section, const std::string& shown_path, const Value::Member& member);
  void wrong(const std::string& path, const Value& value, const std::string& rule);

  RunConfig config_;
  Origins origins_;
  Origin::Kind kind_ = Origin::Kind::kDefault;  // of the sources being read
  std::map<std::string, std::string> element_places_;
  std::set<std::string> failed_;
  std::vector<std::string> problems_;
  std::size_t more_problems_ = 0;
};

// JSON on one line, cut after so many bytes: values and keys in messages.
std::string shown(const Value& value);
// A key as it was written, without what would break a message's line.
std::string shown_key(const std::string& key);

}  // namespace qat

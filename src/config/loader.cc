#include "src/config/loader.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "src/config/reader.h"
#include "src/config/validate.h"

namespace qat {
namespace {

constexpr std::size_t kLargestFile = 16 << 20;  // bytes; a configuration has a few kilobytes

std::string read_file(const std::filesystem::path& path) {
  const auto refuse = [&](const std::string& reason) -> Error {
    return Error(ErrorKind::kConfig, fmt::format("cannot read the configuration file {}: {}", path.string(), reason));
  };
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) throw refuse("it is a folder");
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  if (!file) throw refuse(std::generic_category().message(errno == 0 ? EIO : errno));
  std::string text;
  char block[1 << 16];
  while (file.read(block, sizeof(block)), file.gcount() > 0) {
    text.append(block, static_cast<std::size_t>(file.gcount()));
    if (text.size() > kLargestFile) throw refuse(fmt::format("it has more than {} MiB", kLargestFile >> 20));
  }
  if (file.bad()) throw refuse("reading failed");
  return text;
}

// The value of one --set: JSON if it is, else text. A key that holds text takes whatever is written: run.dir=2024.
Value set_value(const std::string& path, const std::string& text, ConfigReader& reader) {
  std::vector<std::string> duplicates;
  Value value(text);
  try {
    value = parse_json(text, "--set " + path, ErrorKind::kConfig, &duplicates);
  } catch (const Error&) {
    value = Value(text);  // not JSON
  }
  const Field<RunConfig>* field = find_field(path);
  if (field != nullptr && field->is_text() && !value.is_string()) return Value(text);
  for (std::string& line : duplicates) reader.add_problem(std::move(line));
  return value;
}

// "train.steps=5" as {"train": {"steps": 5}}; nothing, and a problem, if it is not of that form.
std::optional<Value> set_root(const std::string& set, ConfigReader& reader) {
  constexpr std::ptrdiff_t kDeepest = 8;  // sections; none is deeper than two
  const std::size_t equals = set.find('=');
  if (equals == std::string::npos || equals == 0) {
    reader.add_problem(fmt::format("--set {}: must have the form key=value, such as train.steps=100", shown_key(set)));
    return std::nullopt;
  }
  std::string path = set.substr(0, equals);
  if (std::count(path.begin(), path.end(), '.') > kDeepest) {
    reader.add_problem(fmt::format("--set: {}: unknown key", shown_key(path)));
    return std::nullopt;
  }
  Value value = set_value(path, set.substr(equals + 1), reader);
  for (std::size_t dot = path.rfind('.'); dot != std::string::npos; dot = path.rfind('.')) {
    value = Value::object({{path.substr(dot + 1), std::move(value)}});
    path.resize(dot);
  }
  return Value::object({{path, std::move(value)}});
}

// "run.json:4: train.steps = 8 ...: rule (other = value, origin)".
class FindingWriter {
 public:
  explicit FindingWriter(const ConfigReader& reader) : reader_(reader) {}

  std::string line(const Finding& finding) const {
    const std::string path = finding.path + finding.element;
    const std::string own = own_place(finding);
    const bool given = own != Origin{}.text();
    std::vector<std::string> others;
    for (const std::string& other : finding.also)
      others.push_back(
          fmt::format("{} = {}, {}", other, shown(config_value(reader_.config(), other)), origin(other).text()));
    // A default is not at fault; the line to look at is the one that it does not fit.
    std::string place = own;
    for (const std::string& other : finding.also) {
      if (place == Origin{}.text() && origin(other).kind != Origin::Kind::kDefault) place = origin(other).text();
    }
    const std::string value =
        finding.value.empty() ? shown(config_value(reader_.config(), finding.path)) : finding.value;
    std::string text = fmt::format("{}: {} = {}", place, path, value);
    if (!given && place != own) text += " (default)";
    text += ": " + finding.rule;
    return others.empty() ? text : fmt::format("{} ({})", text, fmt::join(others, "; "));
  }

  // Whether a key that the finding reads could not be read itself: then it is about a value the user did not mean.
  bool is_moot(const Finding& finding) const {
    const auto failed = [&](const std::string& path) { return reader_.failed(path); };
    return failed(finding.path) || std::any_of(finding.also.begin(), finding.also.end(), failed);
  }

  bool is_given(const std::string& path) const { return origin(path).kind != Origin::Kind::kDefault; }

 private:
  Origin origin(const std::string& path) const {
    const auto found = reader_.origins().find(path);
    return found == reader_.origins().end() ? Origin{} : found->second;
  }
  std::string own_place(const Finding& finding) const {
    const auto element = reader_.element_places().find(finding.path + finding.element);
    return element == reader_.element_places().end() ? origin(finding.path).text() : element->second;
  }

  const ConfigReader& reader_;
};

LoadResult finish(ConfigReader& reader) {
  const Findings findings = cross_check(reader.config());
  const FindingWriter writer(reader);
  for (const Finding& finding : findings.errors) {
    if (!writer.is_moot(finding) && !writer.is_given(finding.unless_given)) reader.add_problem(writer.line(finding));
  }
  if (const auto problems = reader.problems(); !problems.empty())
    throw Error(ErrorKind::kConfig,
                fmt::format("the configuration has {}:\n  {}", problems.size() == 1 ? "an error" : "errors",
                            fmt::join(problems, "\n  ")));
  LoadResult result{.config = reader.config(), .origins = reader.origins(), .warnings = {}};
  for (const Finding& finding : findings.warnings) result.warnings.push_back(writer.line(finding));
  return result;
}

LoadResult load(const std::optional<std::string>& text, const std::string& source, std::span<const std::string> sets) {
  ConfigReader reader;
  if (text) {
    std::vector<std::string> duplicates;
    const Value root = parse_json(*text, source, ErrorKind::kConfig, &duplicates);
    for (std::string& line : duplicates) reader.add_problem(std::move(line));
    reader.read({root}, Origin::Kind::kFile);
  }
  std::vector<Value> roots;
  for (const std::string& set : sets) {
    if (auto root = set_root(set, reader)) roots.push_back(std::move(*root));
  }
  reader.read(roots, Origin::Kind::kSet);
  return finish(reader);
}

}  // namespace

LoadResult load_run_config(const std::optional<std::filesystem::path>& file, std::span<const std::string> sets) {
  if (!file) return load(std::nullopt, "", sets);
  return load(read_file(*file), file->string(), sets);
}

LoadResult load_run_config_text(std::string_view text, const std::string& source, std::span<const std::string> sets) {
  return load(std::string(text), source, sets);
}

}  // namespace qat

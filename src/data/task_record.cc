#include "src/data/task_record.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/common/error.h"
#include "src/base/file.h"

namespace qat {
namespace {

constexpr const char* kBlanks = " \t\r\n\f\v";

Value parse_line(std::string_view text, const std::string& where) {
  try {
    return parse_json(text, where, ErrorKind::kData);
  } catch (const Error& error) {
    // The parser counts the lines of what it was given, which is one.
    std::string words = error.what();
    if (const std::string first = where + ":1:"; words.starts_with(first)) words.erase(where.size(), 2);
    throw Error(ErrorKind::kData, fmt::format("{} (expected a JSON object a line)", words));
  }
}

std::string shown(const Value* value) {
  if (value == nullptr) return "no such key";
  constexpr std::size_t kMost = 60;
  std::string text = to_json(*value);
  if (text.size() <= kMost) return text;
  std::size_t end = kMost;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace

TaskRecord::TaskRecord(std::string_view text, const std::string& file, int line)
    : where_(fmt::format("{}:{}", file, line)), object_(parse_line(text, where_)) {
  if (!object_.is_object())
    throw Error(ErrorKind::kData, fmt::format("{}: expected a JSON object, found {}", where_, shown(&object_)));
}

TaskRecord::TaskRecord(Value object, std::string where, std::string path)
    : where_(std::move(where)), path_(std::move(path)), object_(std::move(object)) {}

std::string TaskRecord::keys() const {
  std::string all;
  for (const Value::Member& one : object_.as_object()) all += (all.empty() ? "" : ", ") + one.key;
  return all;
}

void TaskRecord::fail(std::string_view key, const std::string& expected) const {
  throw Error(ErrorKind::kData, fmt::format("{}: \"{}{}\": expected {}, found {}", where_, path_, key, expected,
                                            shown(object_.find(key))));
}

const Value& TaskRecord::member(std::string_view key, const std::string& expected) const {
  const Value* found = object_.find(key);
  if (found == nullptr) fail(key, expected);
  return *found;
}

std::string TaskRecord::any_text(std::string_view key) const {
  const Value& value = member(key, "text");
  if (!value.is_string()) fail(key, "text");
  if (!is_utf8(value.as_string())) fail(key, "UTF-8");
  return value.as_string();
}

std::string TaskRecord::text(std::string_view key) const {
  std::string text = any_text(key);
  if (text.find_first_not_of(kBlanks) == std::string::npos) fail(key, "text that is not blank");
  return text;
}

bool TaskRecord::flag(std::string_view key) const {
  const Value& value = member(key, "true or false");
  if (!value.is_bool()) fail(key, "true or false");
  return value.as_bool();
}

std::vector<std::string> TaskRecord::texts(std::string_view key, std::size_t least) const {
  const std::string expected = fmt::format("a list of at least {} texts", least);
  const Value& value = member(key, expected);
  if (!value.is_array() || value.as_array().size() < least) fail(key, expected);
  std::vector<std::string> all;
  for (const Value& one : value.as_array()) {
    if (!one.is_string() || !is_utf8(one.as_string())) fail(key, expected);
    all.push_back(one.as_string());
  }
  return all;
}

std::size_t TaskRecord::index(std::string_view key, std::size_t count) const {
  const std::string expected = fmt::format("a number from 0 to {}", count - 1);
  const Value& value = member(key, expected);
  for (std::size_t i = 0; i < count; ++i) {
    if (value.is_int() && std::cmp_equal(value.as_int(), i)) return i;
    if (value.is_string() && value.as_string() == std::to_string(i)) return i;
  }
  fail(key, expected);
}

TaskRecord TaskRecord::object(std::string_view key) const {
  const Value& value = member(key, "an object");
  if (!value.is_object()) fail(key, "an object");
  return {value, where_, fmt::format("{}{}.", path_, key)};
}

std::vector<TaskLine> read_task_lines(const std::string& path) {
  const std::string content = read_file(path, ErrorKind::kData);
  std::vector<TaskLine> lines;
  int number = 0;
  for (std::size_t begin = 0; begin < content.size();) {
    const std::size_t end = std::min(content.find('\n', begin), content.size());
    ++number;
    const std::string_view line = std::string_view(content).substr(begin, end - begin);
    if (line.find_first_not_of(kBlanks) != std::string_view::npos) lines.push_back({number, std::string(line)});
    begin = end + 1;
  }
  return lines;
}

}  // namespace qat

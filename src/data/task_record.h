// One line of a task file: a JSON object whose members are asked for by name and type. Every error names the file, the
// line and the key.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/json.h"

namespace qat {

class TaskRecord {
 public:
  // Throws kData unless `text` is a JSON object.
  TaskRecord(std::string_view text, const std::string& file, int line);

  bool has(std::string_view key) const { return object_.find(key) != nullptr; }
  // Keys with commas between them, for messages.
  std::string keys() const;

  // Text with something else in it than white space, in UTF-8.
  std::string text(std::string_view key) const;
  // The same, but empty and blank texts are texts.
  std::string any_text(std::string_view key) const;
  bool flag(std::string_view key) const;
  // At least `least` texts.
  std::vector<std::string> texts(std::string_view key, std::size_t least) const;
  // A whole number from 0 to count - 1, also as text ("2").
  std::size_t index(std::string_view key, std::size_t count) const;
  // A member that is itself an object.
  TaskRecord object(std::string_view key) const;

  // Throws kData: what was expected of the member, and what is there.
  [[noreturn]] void fail(std::string_view key, const std::string& expected) const;

 private:
  TaskRecord(Value object, std::string where, std::string path);
  const Value& member(std::string_view key, const std::string& expected) const;

  std::string where_;  // "file:line"
  std::string path_;   // of an object in the object: "choices."
  Value object_;
};

// The lines of a file that are not blank, with their numbers from 1. kData if it cannot be read.
struct TaskLine {
  int number = 0;
  std::string text;
};
std::vector<TaskLine> read_task_lines(const std::string& path);

}  // namespace qat

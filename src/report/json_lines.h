// A file of JSON objects, one a line, that belongs to a run and can be continued by a resumed one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>

#include "src/base/file.h"
#include "src/base/json.h"

namespace qat {

// Every object has a "step". Opening the file at step k drops the lines of step k and later, which a run wrote after
// the checkpoint it is resumed from, and lines that are no objects, such as the torn last line of a killed process. The
// file is replaced atomically for that, or not touched if nothing is to be dropped.
class JsonLinesFile {
 public:
  // next_step: the first step that will be appended; 0 begins the file anew. Throws Error(kConfig) for what cannot be
  // read or written.
  JsonLinesFile(const std::filesystem::path& path, std::int64_t next_step);

  // In the kernel's hands when it returns. Throws Error(kConfig).
  void append(const Value& object);

  std::int64_t kept_lines() const noexcept { return kept_; }
  std::int64_t dropped_lines() const noexcept { return dropped_; }

 private:
  AppendFile drop_and_open(const std::filesystem::path& path, std::int64_t next_step);

  std::int64_t kept_ = 0;
  std::int64_t dropped_ = 0;
  AppendFile file_;
};

// The objects of such a file, which somebody may be writing: a line without its end, and what is no object with a step,
// is left out.
// Nothing where there is no file. Throws Error(kConfig) for what cannot be read.
void for_each_json_line(const std::filesystem::path& path, const std::function<void(const Value&)>& use);

}  // namespace qat

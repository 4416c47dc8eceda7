// What a run says while it runs: a file per rank, and the console of rank 0.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "src/base/clock.h"
#include "src/base/file.h"

namespace qat {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

std::string_view to_string(LogLevel level);

// One line of a log file: "2026-11-22T01:37:45.123 [rank 3] info: text". A text of several lines becomes several.
std::string format_log_lines(WallTime time, int rank, LogLevel level, std::string_view text);

struct LoggerOptions {
  std::filesystem::path dir;  // rank_003.log goes here; empty: no file
  int rank = 0;
  LogLevel file_level = LogLevel::kDebug;  // less important lines are left out
  LogLevel console_level = LogLevel::kInfo;
  // Gets "text", or "warning: text", without line end; empty: nothing goes to the console. Rank 0's only, as a rule.
  std::function<void(std::string_view line)> console;
};

// Passed by reference to whoever has something to say; may be called from any thread. A full disk does not stop a run:
// the first line that cannot be written is reported on the console.
class Logger {
 public:
  // Makes the folder; appends to the file of an earlier run. Throws Error(kConfig) if it cannot.
  explicit Logger(LoggerOptions options);

  void log(LogLevel level, std::string_view text);
  void debug(std::string_view text) { log(LogLevel::kDebug, text); }
  void info(std::string_view text) { log(LogLevel::kInfo, text); }
  void warning(std::string_view text) { log(LogLevel::kWarning, text); }
  void error(std::string_view text) { log(LogLevel::kError, text); }

  int rank() const noexcept { return options_.rank; }
  // Whether a line could not be written to the file.
  bool failed() const noexcept { return write_failed_.load(); }
  // Empty if there is none.
  std::filesystem::path file() const;

 private:
  LoggerOptions options_;
  std::mutex mutex_;
  std::optional<AppendFile> file_;
  std::atomic<bool> write_failed_{false};
};

}  // namespace qat

#include "src/base/log.h"

#include <fmt/format.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace qat {

std::string_view to_string(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return "debug";
    case LogLevel::kInfo:
      return "info";
    case LogLevel::kWarning:
      return "warning";
    case LogLevel::kError:
      return "error";
  }
  return "unknown";
}

std::string format_log_lines(WallTime time, int rank, LogLevel level, std::string_view text) {
  const std::string head = fmt::format("{} [rank {}] {}: ", local_time(time), rank, to_string(level));
  std::string lines;
  for (;;) {
    const std::size_t end = text.find('\n');
    lines.append(head).append(text.substr(0, end));
    if (end == std::string_view::npos || end + 1 == text.size()) return lines;
    lines.push_back('\n');
    text.remove_prefix(end + 1);
  }
}

Logger::Logger(LoggerOptions options) : options_(std::move(options)) {
  if (options_.dir.empty()) return;
  create_directories_checked(options_.dir, "run.dir");
  file_.emplace(options_.dir / fmt::format("rank_{:03}.log", options_.rank));
}

void Logger::log(LogLevel level, std::string_view text) {
  const WallTime now = std::chrono::system_clock::now();
  const std::lock_guard lock(mutex_);
  if (file_ && level >= options_.file_level && !file_->try_append(format_log_lines(now, options_.rank, level, text)) &&
      !write_failed_) {
    write_failed_ = true;
    const std::string reason = std::generic_category().message(errno);
    if (options_.console)
      options_.console(fmt::format("warning: the log {} cannot be written: {}", file_->path().string(), reason));
  }
  if (!options_.console || level < options_.console_level) return;
  if (level == LogLevel::kInfo) {
    options_.console(text);
  } else {
    options_.console(fmt::format("{}: {}", to_string(level), text));
  }
}

std::filesystem::path Logger::file() const { return file_ ? file_->path() : std::filesystem::path(); }

}  // namespace qat

#include "src/base/clock.h"

#include <fmt/format.h>

#include <ctime>

namespace qat {
namespace {

std::string text(WallTime time, std::tm* (*split)(const std::time_t*, std::tm*)) {
  // floor, not duration_cast: times before 1970 would have negative milliseconds.
  const auto seconds = std::chrono::floor<std::chrono::seconds>(time);
  const auto millis = std::chrono::floor<std::chrono::milliseconds>(time - seconds).count();
  const std::time_t clock = std::chrono::system_clock::to_time_t(seconds);
  std::tm parts{};
  split(&clock, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}", parts.tm_year + 1900, parts.tm_mon + 1, parts.tm_mday,
                     parts.tm_hour, parts.tm_min, parts.tm_sec, millis);
}

}  // namespace

std::string utc_time(WallTime time) { return text(time, &gmtime_r) + "Z"; }

std::string local_time(WallTime time) { return text(time, &localtime_r); }

}  // namespace qat

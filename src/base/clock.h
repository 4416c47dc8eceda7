// Times of day as text, whatever the locale.
#pragma once

#include <chrono>
#include <string>

namespace qat {

using WallTime = std::chrono::system_clock::time_point;

// 2026-11-22T01:37:45.123Z: for data, which travels.
std::string utc_time(WallTime time);

// 2026-11-22T02:37:45.123, on this machine's clock: for people.
std::string local_time(WallTime time);

}  // namespace qat

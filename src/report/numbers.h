// Numbers as people read them, whatever the locale.
#pragma once

#include <cstdint>
#include <string>

namespace qat {

// digits after the point; "nan", "inf" and "-inf" as words.
std::string fixed(double value, int digits);

// 999, 12.3k, 4.56M, 1.2G: three digits.
std::string short_count(double value);

// 0:07, 12:34, 3:25:01, 2d 03:25:01; not finite or negative: "?".
std::string duration(double seconds);

// 1536 -> "1.50 KiB".
std::string byte_size(std::int64_t bytes);

}  // namespace qat

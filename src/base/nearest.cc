#include "src/base/nearest.h"

#include <algorithm>
#include <vector>

namespace qat {
namespace {

// ASCII only: keys and enumerators are ASCII, and std::tolower would depend on the locale.
char folded(char c) {
  if (c >= 'A' && c <= 'Z') return static_cast<char>(c - 'A' + 'a');
  return c == '-' ? '_' : c;
}

}  // namespace

std::int64_t edit_distance(std::string_view a, std::string_view b) {
  const std::size_t columns = b.size() + 1;
  std::vector<std::int64_t> two_up(columns), up(columns), row(columns);  // distances of prefixes of b
  for (std::size_t j = 0; j < columns; ++j) up[j] = static_cast<std::int64_t>(j);
  for (std::size_t i = 1; i <= a.size(); ++i) {
    row[0] = static_cast<std::int64_t>(i);
    for (std::size_t j = 1; j < columns; ++j) {
      const char x = folded(a[i - 1]), y = folded(b[j - 1]);
      row[j] = std::min({up[j] + 1, row[j - 1] + 1, up[j - 1] + (x == y ? 0 : 1)});
      if (i > 1 && j > 1 && x == folded(b[j - 2]) && y == folded(a[i - 2]))
        row[j] = std::min(row[j], two_up[j - 2] + 1);
    }
    std::swap(two_up, up);
    std::swap(up, row);
  }
  return up[b.size()];
}

std::optional<std::string> nearest(std::string_view word, std::span<const std::string> candidates) {
  const auto length = static_cast<std::int64_t>(word.size());
  std::int64_t best = std::max<std::int64_t>(1, length / 3) + 1;
  const std::string* found = nullptr;
  for (const std::string& candidate : candidates) {
    // The distance is at least the difference of the lengths; this also bounds the work for a word of megabytes.
    if (std::abs(length - static_cast<std::int64_t>(candidate.size())) >= best) continue;
    const std::int64_t distance = edit_distance(word, candidate);
    // Two words without a character in common are not alike, however short.
    if (distance >= best || distance >= std::min<std::int64_t>(length, std::ssize(candidate))) continue;
    best = distance;
    found = &candidate;
  }
  if (found == nullptr) return std::nullopt;
  return *found;
}

}  // namespace qat

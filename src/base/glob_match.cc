#include "src/base/glob_match.h"

#include <cstddef>

namespace qat {
namespace {

// Characters of the pattern that the element at its front takes: 1, or the length of a [set].
std::size_t element_length(std::string_view pattern) {
  if (pattern[0] != '[') return 1;
  const std::size_t first = pattern.size() > 1 && pattern[1] == '!' ? 2 : 1;
  const std::size_t end = pattern.find(']', first + 1);  // a ']' that comes first is a member
  return end == std::string_view::npos ? 1 : end + 1;
}

bool element_matches(std::string_view element, char c) {
  if (element.size() == 1) return element[0] == '?' || element[0] == c;
  std::string_view set = element.substr(1, element.size() - 2);
  const bool negated = set[0] == '!';
  if (negated) set.remove_prefix(1);
  bool member = false;
  for (std::size_t i = 0; i < set.size(); ++i) {
    if (i + 2 < set.size() && set[i + 1] == '-') {
      member = member || (set[i] <= c && c <= set[i + 2]);
      i += 2;
    } else {
      member = member || set[i] == c;
    }
  }
  return member != negated;
}

}  // namespace

bool glob_match(std::string_view pattern, std::string_view text) {
  std::size_t p = 0, t = 0;
  // After the last '*': where the pattern goes on, and the first text position not yet given to the '*'. Only the last
  // one needs another try, since what an earlier one could give back the last one can take.
  std::size_t star_p = std::string_view::npos, star_t = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star_p = ++p;
      star_t = t;
      continue;
    }
    if (p < pattern.size()) {
      const std::size_t length = element_length(pattern.substr(p));
      if (element_matches(pattern.substr(p, length), text[t])) {
        p += length;
        ++t;
        continue;
      }
    }
    if (star_p == std::string_view::npos) return false;
    p = star_p;
    t = ++star_t;
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace qat

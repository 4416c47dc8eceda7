#include "src/eval/prediction_file.h"

#include <algorithm>
#include <cctype>

namespace qat {

std::string file_name_of(const EvaluatedAt& at) {
  constexpr std::size_t kLongest = 64;
  std::string name = at.name().substr(0, kLongest);
  std::replace_if(
      name.begin(), name.end(),
      [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0 && c != '_' && c != '-' && c != '.'; }, '_');
  return name;
}

}  // namespace qat

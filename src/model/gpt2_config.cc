#include "src/model/gpt2_config.h"

#include <algorithm>

namespace qat {

std::optional<std::string> name_without_width(const std::string& name) {
  // <prefix>.w<digits>.<weight or bias>
  const std::size_t last = name.rfind('.');
  if (last == std::string::npos || last == 0) return std::nullopt;
  const std::size_t before = name.rfind('.', last - 1);
  if (before == std::string::npos || before + 2 >= last || name[before + 1] != 'w') return std::nullopt;
  const bool digits =
      std::all_of(name.begin() + static_cast<std::ptrdiff_t>(before) + 2,
                  name.begin() + static_cast<std::ptrdiff_t>(last), [](char c) { return c >= '0' && c <= '9'; });
  if (!digits) return std::nullopt;
  return name.substr(0, before) + name.substr(last);
}

}  // namespace qat

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

bool is_trained_range(const std::string& name) {
  const std::size_t last = name.rfind('.');
  if (last == std::string::npos || last + 1 >= name.size() || name[last + 1] != 'w') return false;
  const std::string before = name.substr(0, last);
  const auto ends = [&](const char* member) { return before.ends_with(member); };
  return ends(".weight_step") || ends(".activation_step") || ends(".weight_scale") || ends(".weight_zero");
}

}  // namespace qat

#include "launch/number_checks.h"

#include <fmt/format.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>

namespace qat::launch {
namespace {

CLI::Validator check(const std::string& wanted, const std::function<bool(double)>& holds) {
  return {[wanted, holds](const std::string& text) -> std::string {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            if (end != text.c_str() && *end == '\0' && std::isfinite(value) && holds(value)) return {};
            return fmt::format("\"{}\" must be {}", text, wanted);
          },
          wanted};
}

}  // namespace

CLI::Validator at_least(double least) {
  return check(fmt::format("at least {}", least), [least](double value) { return value >= least; });
}

CLI::Validator above(double bound) {
  return check(fmt::format("above {}", bound), [bound](double value) { return value > bound; });
}

CLI::Validator between(double least, double most) {
  return check(fmt::format("from {} to {}", least, most),
               [=](double value) { return value >= least && value <= most; });
}

}  // namespace qat::launch

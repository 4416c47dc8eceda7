#include "launch/number_checks.h"

#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <cstdlib>
#include <functional>
#include <string>
#include <system_error>

namespace qat::launch {
namespace {

CLI::Validator check(const std::string& wanted, const std::function<bool(double)>& holds) {
  return {[wanted, holds](const std::string& text) -> std::string {
            char* end = nullptr;
            const double value = std::strtod(text.c_str(), &end);
            if (end != text.c_str() && *end == '\0' && std::isfinite(value) && holds(value)) return {};
            const bool endless = end != text.c_str() && *end == '\0' && !std::isfinite(value);
            return fmt::format("\"{}\" must be {}{}", text, wanted, endless ? ", and finite" : "");
          },
          wanted};
}

}  // namespace

CLI::Validator whole_from(std::int64_t least) {
  const std::string wanted = fmt::format("a whole number from {}", least);
  return {[wanted, least](const std::string& text) -> std::string {
            std::int64_t value = 0;
            const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
            if (error == std::errc::result_out_of_range && end == text.data() + text.size())
              return fmt::format("\"{}\" does not fit in 64 bits", text);
            if (error == std::errc() && end == text.data() + text.size() && value >= least) return {};
            return fmt::format("\"{}\" must be {}", text, wanted);
          },
          wanted};
}

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

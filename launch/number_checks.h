// Bounds of numbers on the command line. CLI11's own checks let "nan" through and write their limits out in 300 digits.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>

namespace qat::launch {

// Refuses what is no whole number of 64 bits, too: CLI11 takes the nearest one for what is too large.
CLI::Validator whole_from(std::int64_t least);
// Each refuses what is no finite number. The text of a refusal: "-1" must be at least 0.
CLI::Validator at_least(double least);
CLI::Validator above(double bound);
CLI::Validator between(double least, double most);

}  // namespace qat::launch

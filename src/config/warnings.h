#pragma once

#include <vector>

#include "src/config/validate.h"

namespace qat {

// What a configuration may say, but probably does not mean: values without effect, and choices that rarely end well.
std::vector<Finding> find_warnings(const RunConfig& config);

}  // namespace qat

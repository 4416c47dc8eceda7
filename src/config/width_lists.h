// Rules of the lists that say something about single widths. Internal to src/config.
#pragma once

#include <vector>

#include "src/config/validate.h"

namespace qat {

// A width that no layer of the run has, one that is named twice, adapters of single widths that the run does not have,
// a rate beyond fp32.
std::vector<Finding> width_list_faults(const RunConfig& config);

}  // namespace qat

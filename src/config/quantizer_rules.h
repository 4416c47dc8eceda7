// Which quantizers, ranges, granularities and widths go together. Internal to src/config.
#pragma once

#include "src/config/validate.h"

namespace qat {

void check_quantizers(const RunConfig& config, Findings& found);

}  // namespace qat

// Rules of how ranks are used that need no number of ranks. Internal to src/config.
#pragma once

#include <cstdint>
#include <vector>

#include "src/config/validate.h"

namespace qat {

// What a pipeline's schedule, chunks and cut must fulfil, with the nearest values that do.
void check_pipeline(const RunConfig& config, Findings& found);

// What a run does not do on several stages (yet): refused, for it would be silently something else.
void check_staged_run(const RunConfig& config, Findings& found);

// The valid cut of `blocks` next to `cut`, which has 1 to `blocks` elements: from 0, rising, below `blocks`.
std::vector<int> nearest_cut(const std::vector<int>& cut, std::int64_t blocks);

}  // namespace qat

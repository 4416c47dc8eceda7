// What a run writes for those who watch it. JSON section "report".
#pragma once

#include <cstdint>

namespace qat {

struct ReportConfig {
  bool tensorboard = true;            // event files in run.dir/tensorboard
  std::int64_t layers_every = 0;      // steps between lines of layers.jsonl; 0: none
  std::int64_t histograms_every = 0;  // steps between histograms of weights, scales and codes; 0: none
};

}  // namespace qat

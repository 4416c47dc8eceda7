// Which width a step uses, and its learning rate. JSON sections "precision" and "lr".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

struct PrecisionScheduleConfig {
  std::string kind = "cosine";  // cosine | triangular | list | constant
  std::string phase = "rise";   // cosine only. rise: min to max, then jump (CPT, arXiv:2101.09868); full: min-max-min;
                                // fall: max to min after warmup_steps at max
  std::string unit = "step";    // the schedule advances per step | epoch (one pass over the training tokens)
  std::int64_t cycles = 8;      // over the whole run; each at least 2 units long
  int min_bits = 3;             // lowest scheduled width
  int max_bits = 8;             // highest scheduled width
  std::vector<int> list;        // list only: the widths of one cycle, each held for an equal share of it
  std::int64_t warmup_steps = 0;       // fall only: units held at max_bits first
  std::string grad_kind = "constant";  // constant: grad_min_bits always; scheduled: as the widths, between both bounds
  int grad_min_bits = 8;               // bits of backward's gradients; 32: not quantized
  int grad_max_bits = 8;               // scheduled only
};

struct LrScheduleConfig {
  double peak = 6e-4;             // learning rate after warm-up
  double min_ratio = 0.1;         // the last step's rate is peak * min_ratio
  std::int64_t warmup_steps = 0;  // linear from peak / warmup_steps to peak
  std::string decay = "cosine";   // cosine | linear | constant
};

}  // namespace qat

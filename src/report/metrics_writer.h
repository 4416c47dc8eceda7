// metrics.jsonl: one JSON object per optimizer step.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/json_lines.h"

namespace qat {

// One of several passes of a step. Means over the global batch, without weights.
struct PassMetrics {
  int weight_bits = 32;
  std::optional<double> loss;          // cross-entropy; none: the pass only teaches
  std::optional<double> distillation;  // of what it learns from teachers, if it does
  std::optional<double> features;
  std::string map;  // the map's name; empty: all layers have that width
};

struct StepMetrics {
  std::int64_t step = 0;  // from 0, as in the step's plan
  double loss = 0.0;      // mean cross-entropy in nats per token, over all ranks; of several passes, and what they
                          // learn from teachers, by weights; not finite: written as null
  double lr = 0.0;
  std::string map;       // of the only pass; empty: a width, or several passes
  int weight_bits = 32;  // as planned, of the first pass; single layers may have others
  int act_bits = 32;
  int grad_bits = 32;
  std::optional<std::int64_t> cycle;  // of the precision schedule, from 0; none: it has no cycles
  double grad_norm = 0.0;             // before clipping
  bool clipped = false;
  std::int64_t tokens = 0;  // of this step, over all ranks
  double tokens_per_s = 0.0;
  double step_ms = 0.0;
  double bitops = 0.0;        // bit operations of this step
  double bitops_ratio = 1.0;  // of the run so far, relative to 32 bits
  bool skipped = false;       // the parameters were not updated
  int skips_in_a_row = 0;     // this one included
  bool saving = false;        // a checkpoint was being written beside this step
  // Of the gradients' exchange, of one rank; none: the run has one.
  struct Wire {
    std::int64_t bytes = 0, fp32_bytes = 0;  // of gradients: sent; what fp32 would have sent
    std::int64_t weight_bytes = 0;           // sent of updated weights, since the last line's
    double exposed_ms = 0.0;                 // from the last gradient to the last sum
    double weight_exposed_ms = 0.0;          // that computing waited for updated weights
  };
  std::optional<Wire> wire;
  // Of hidden states and their gradients between stages, by all ranks; none: there is one stage.
  struct Transfers {
    std::int64_t bytes = 0, bf16_bytes = 0;  // sent; what bf16 would have sent
  };
  std::optional<Transfers> transfers;
  // What rank 0 has after the step: on CPUs its resident set, on a GPU what its tensors take there, and what the
  // allocator keeps for them.
  struct Memory {
    std::int64_t bytes = 0;
    std::optional<std::int64_t> reserved_bytes;
  };
  std::optional<Memory> memory;
  std::optional<double> loss_change;  // against the step before; none: there is none, or several updates
  bool switched = false;              // and that one was at another precision
  std::vector<PassMetrics> passes;    // of a step that has several, in order; else empty
  std::string time;                   // UTC; empty: now
};

Value to_value(const StepMetrics& metrics);

class MetricsWriter {
 public:
  // next_step: the step that will be written first. Lines of that step and later are dropped: see JsonLinesFile.
  MetricsWriter(const std::filesystem::path& path, std::int64_t next_step) : file_(path, next_step) {}

  void write(StepMetrics metrics);

  const JsonLinesFile& file() const noexcept { return file_; }

 private:
  JsonLinesFile file_;
};

}  // namespace qat

// layers.jsonl: what single linear layers do at some of a run's steps.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/json.h"
#include "src/report/event_file.h"

namespace qat {

struct LayerFigures {
  std::string name;         // h.0.attn.c_attn
  int bits = 32;            // of its weights
  double grad_norm = 0.0;   // of the layer's parameters, its adapter's with them, before clipping
  double zero_codes = 0.0;  // share of its weights that are quantized to 0; not a number: not quantized
  double clipped = 0.0;     // share that lies beyond the range's codes; likewise
};

struct LayerRecord {
  std::int64_t step = 0;
  std::string precision;             // what trained: "4" (bits), a map's name, or "all" where it was several at once
  std::vector<LayerFigures> layers;  // in order of use
};

Value to_value(const LayerRecord& record);
// Throws an error of the value's source.
LayerRecord layer_record_of(const Value& line);
Value to_value(const LayerFigures& figures);
LayerFigures layer_figures_of(const Value& value);

// grad_norm/<layer>/4bit, zero_codes/... and clipped/...
EventSummary layer_summary(const LayerRecord& record);

}  // namespace qat

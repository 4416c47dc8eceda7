// The model as the numbers that reports and accounting want.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "dist/control/step_plan.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/report/final_report.h"
#include "src/report/model_size.h"
#include "src/schedule/bitops.h"
#include "src/schedule/schedule_config.h"

namespace qat {

// Matrix products of a step over `tokens` tokens in sequences of `sequence_length`: linear layers and adapters at their
// widths; attention (causal: half of T^2) and an unquantized head at 32 bits. Norms and element-wise work count
// nothing.
std::vector<LayerWork> layer_work(const Gpt2& model, const PrecisionMap& precision, std::int64_t tokens,
                                  std::int64_t sequence_length);

// Those of one of an update's passes. One that only teaches has no backward, and its output projection is worked out in
// the passes that learn from it, once in each. maps: the step's.
std::vector<LayerWork> pass_work(const Gpt2& model, const dist::UpdatePlan& update, std::size_t pass,
                                 std::span<const PrecisionMap> maps, std::int64_t tokens, std::int64_t sequence_length);

// Bit operations of training on as many tokens with nothing quantized.
double bitops_at_full(const Gpt2& model, std::int64_t tokens, std::int64_t sequence_length);

// Every parameter once, with the width it would be stored at.
SizeReport model_size(const Gpt2& model, const QuantConfig& quant, const PrecisionMap& precision);

// What activations are stored in: "bf16", "tf32" (fp32 in memory) or "fp32".
std::string floats_of(const ComputeMode& mode);

// Which arithmetic the linear layers take, as lines for the log: one for each map of quant.maps or, where there are
// none, one for all of quant.widths that take the same. Widths of single layers (quant.overrides) only tell whether the
// blocks are fused.
std::vector<std::string> product_paths(const Gpt2& model, const QuantConfig& quant,
                                       const PrecisionScheduleConfig& schedule);

// What the final table of these scores is called.
std::string report_title(const std::vector<WidthScore>& scores);

// A row of the final table for each score.
std::vector<WidthResult> width_results(const Gpt2& model, const QuantConfig& quant,
                                       const std::vector<WidthScore>& scores, std::int64_t sequence_length);

}  // namespace qat

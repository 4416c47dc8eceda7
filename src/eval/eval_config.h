// Held-out perplexity, or how questions are answered. JSON section "eval".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/quant/quant_config.h"

namespace qat {

struct EvalConfig {
  std::int64_t every = 0;         // steps between evaluations at eval.bits; 0: only at the end
  bool at_start = false;          // also the untrained model's, at 32 bits
  std::vector<int> bits;          // widths that are evaluated
  std::vector<std::string> maps;  // maps of layers' widths (src/bitmap/bitmap_text.h) that are. Without either: every
                                  // map of quant.maps or, where there are none, every width of quant.widths
  std::int64_t max_tokens = 0;    // of the held-out text; 0: all of it
  std::int64_t stride = 0;        // tokens between windows; 0: sequence_length (no overlap)
  std::int64_t batch_size = 8;    // windows a pass
  std::int64_t n_best = 20;       // span_qa: the likeliest first tokens, and last ones, that are put together
  std::int64_t max_answer_tokens = 30;  // span_qa: of an answer
  double null_threshold = 0.0;          // span_qa: "no answer" needs a score so much above the best answer's
  bool predictions = false;             // span_qa: also write the answers, predictions_<bits>.json beside the report
  std::int64_t patience = 0;  // evaluations without a better held-out loss that end training early; 0: none do
  double min_delta = 0.0;     // what counts as better: lower by more than this, nats a token
};

// What an evaluation is of, in the order of the configuration.
struct Evaluated {
  std::vector<int> widths;
  std::vector<std::string> maps;
};
inline Evaluated evaluated_by(const EvalConfig& config, const QuantConfig& quant) {
  if (!config.bits.empty() || !config.maps.empty()) return {config.bits, config.maps};
  if (!quant.maps.empty()) return {{}, quant.maps};
  return {quant.widths, {}};
}

}  // namespace qat

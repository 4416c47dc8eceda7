// The figures of src/report/diagnosis.h, measured on a few windows of text.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "src/data/token_source.h"
#include "src/eval/width_eval.h"
#include "src/model/gpt2.h"
#include "src/report/diagnosis.h"

namespace qat {

struct DiagnosisOptions {
  std::int64_t windows = 4;    // of the text's beginning, one after the other
  std::int64_t length = 128;   // tokens of each; at most what the model reads
  std::function<void()> beat;  // after every pass; null: nothing
};

// One rank's work, on a language model in one piece. Adapters' B are zero for one pass, and then what they were. Throws
// kData for a text that is shorter than one window.
Diagnosis diagnose(Gpt2& model, const PrecisionMap& precision, const std::string& name, const RangeTable* ranges,
                   const TokenSource& text, const DiagnosisOptions& options);

// Of logits [places, vocabulary], fp32; the five likeliest ids are the last place's.
LogitFigures logit_figures(const at::Tensor& logits);

}  // namespace qat

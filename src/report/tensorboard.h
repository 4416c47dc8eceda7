// What TensorBoard shows of a run: tags and values of a step's metrics and of an evaluation (docs/watching.md).
#pragma once

#include "src/base/json.h"
#include "src/report/event_file.h"
#include "src/report/metrics_writer.h"

namespace qat {

// loss/all, and loss/8bit or loss/stripe8&4 of the widths and maps that the step trained; train/..., bits/...,
// speed/...
EventSummary step_summary(const StepMetrics& metrics);

// record: a line of eval.jsonl. perplexity/8bit, or exact_match/8bit and f1/8bit; held_out_loss/8bit.
EventSummary evaluation_summary(const Value& record);

}  // namespace qat

// Windows of a text that go through the model together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "src/data/eval_windows.h"
#include "src/data/token_source.h"
#include "src/eval/dealt_passes.h"

namespace qat {

// Passes of at most `batch_size` windows, neighbours of equal length.
std::vector<EvaluationPass> plan_window_passes(const std::vector<EvalWindow>& windows, std::int64_t batch_size);

// The tokens of a pass's windows, their targets included: int64 [windows, inputs + 1]. Throws kData for what cannot be
// read.
at::Tensor window_tokens(const TokenSource& tokens, const std::vector<EvalWindow>& windows, const EvaluationPass& pass,
                         const at::Device& device);

}  // namespace qat

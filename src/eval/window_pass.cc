#include "src/eval/window_pass.h"

#include <ATen/ATen.h>

#include <span>

namespace qat {

std::vector<EvaluationPass> plan_window_passes(const std::vector<EvalWindow>& windows, std::int64_t batch_size) {
  std::vector<EvaluationPass> passes;
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const bool joins = !passes.empty() && passes.back().count < static_cast<std::size_t>(batch_size) &&
                       windows[i].inputs() == windows[passes.back().first].inputs();
    if (joins) {
      ++passes.back().count;
    } else {
      passes.push_back({i, 1});
    }
  }
  return passes;
}

at::Tensor window_tokens(const TokenSource& tokens, const std::vector<EvalWindow>& windows, const EvaluationPass& pass,
                         const at::Device& device) {
  const std::int64_t length = windows[pass.first].inputs() + 1;
  at::Tensor text = at::empty({static_cast<std::int64_t>(pass.count), length}, at::kInt);
  for (std::size_t row = 0; row < pass.count; ++row)
    tokens.copy(windows[pass.first + row].begin,
                std::span(text.mutable_data_ptr<std::int32_t>() + static_cast<std::int64_t>(row) * length,
                          static_cast<std::size_t>(length)));
  return text.to(device, at::kLong);
}

}  // namespace qat

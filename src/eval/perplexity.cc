#include "src/eval/perplexity.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "kernels/common/error.h"
#include "src/data/eval_windows.h"
#include "src/eval/token_rank.h"
#include "src/eval/window_pass.h"
#include "src/model/stage_transfers.h"

namespace qat {
namespace {

constexpr std::size_t kPassNumbers = 3;  // NLL, tokens that were the likeliest, and among the five

// Sum of the scored tokens' NLL of one pass, in double, in order of tokens; with ranks, how they stood.
void score_pass(const EvaluationJob& job, const TokenSource& tokens, const std::vector<EvalWindow>& windows,
                const EvaluationPass& pass, const ForwardContext& context, std::span<double> numbers) {
  const Gpt2& model = job.model;
  const std::int64_t length = windows[pass.first].inputs();
  const auto rows = static_cast<std::int64_t>(pass.count);
  const at::Device device = model.mode().device;
  at::Tensor ids;
  std::optional<Error> unreadable;
  try {
    ids = window_tokens(tokens, windows, pass, device);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kData || job.grid.stages() == 1) throw;
    unreadable = error;  // the other stages wait for this pass
    ids = at::zeros({rows, length + 1}, at::TensorOptions(at::kLong).device(device));
  }
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = hidden_over_stages(model, job.grid, ids.narrow(1, 0, length).contiguous(), context);
  if (unreadable) throw Error(*unreadable);
  if (!hidden.defined()) return;  // the last stage has the likelihoods
  const at::Tensor targets = ids.narrow(1, 1, length).contiguous();
  const at::Tensor nll = model.nll_of_hidden(hidden, targets, context).to(at::kCPU).contiguous();
  const at::Tensor ranks = job.token_ranks ? token_ranks(model, hidden, targets, context) : at::Tensor();
  for (std::int64_t row = 0; row < rows; ++row) {
    const EvalWindow& window = windows[pass.first + static_cast<std::size_t>(row)];
    const float* values = nll.const_data_ptr<float>() + row * length;
    const std::int64_t* rank = ranks.defined() ? ranks.const_data_ptr<std::int64_t>() + row * length : nullptr;
    for (std::int64_t i = window.score_begin - 1 - window.begin; i < length; ++i) {
      numbers[0] += static_cast<double>(values[i]);
      if (rank == nullptr) continue;
      if (rank[i] == 0) ++numbers[1];
      if (rank[i] < 5) ++numbers[2];
    }
  }
}

}  // namespace

double HeldOutScore::mean_nll() const { return tokens > 0 ? nll_sum / static_cast<double>(tokens) : NAN; }
double HeldOutScore::perplexity() const { return std::exp(mean_nll()); }

std::int64_t tokens_to_read(const TokenSource& tokens, const EvalConfig& config) {
  const std::int64_t total =
      config.max_tokens > 0 ? std::min(config.max_tokens, tokens.total_tokens()) : tokens.total_tokens();
  if (total < 2)
    throw Error(
        ErrorKind::kData,
        fmt::format("data.val{} has {} token{} to read; perplexity needs at least 2, since the first has nothing "
                    "to be predicted from: name a longer held-out text",
                    tokens.segments().empty() ? "" : fmt::format(" ({})", tokens.segments().front().name), total,
                    total == 1 ? "" : "s"));
  return total;
}

std::optional<HeldOutScore> held_out_score(const EvaluationJob& job, const TokenSource& tokens,
                                           const EvalConfig& config, std::int64_t sequence_length) {
  const auto windows = eval_windows(tokens_to_read(tokens, config), sequence_length,
                                    config.stride > 0 ? config.stride : sequence_length);
  const std::vector<EvaluationPass> passes = plan_window_passes(windows, config.batch_size);
  const auto sums = run_dealt_passes(job, passes.size(), kPassNumbers, "held-out tokens",
                                     [&](std::size_t pass, const ForwardContext& context, std::span<double> numbers) {
                                       score_pass(job, tokens, windows, passes[pass], context, numbers);
                                     });
  if (!sums) return std::nullopt;
  HeldOutScore score;
  TokenRanks ranks;
  for (std::size_t first = 0; first < sums->size(); first += kPassNumbers) {
    score.nll_sum += (*sums)[first];
    ranks.likeliest += static_cast<std::int64_t>((*sums)[first + 1]);
    ranks.in_top_5 += static_cast<std::int64_t>((*sums)[first + 2]);
  }
  if (job.token_ranks) score.ranks = ranks;
  for (const EvalWindow& window : windows) score.tokens += window.scored();
  return score;
}

}  // namespace qat

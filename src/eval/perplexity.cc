#include "src/eval/perplexity.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"
#include "src/data/eval_windows.h"
#include "src/quant/torch_parallel.h"

namespace qat {
namespace {

// Windows that go through the model together: neighbours of equal length.
struct Pass {
  std::size_t first = 0;
  std::size_t count = 0;
};

std::vector<Pass> plan_passes(const std::vector<EvalWindow>& windows, std::int64_t batch_size) {
  std::vector<Pass> passes;
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

// Sum of the scored tokens' NLL of one pass, in double, in order of tokens.
double score_pass(const Gpt2& model, const TokenSource& tokens, const std::vector<EvalWindow>& windows,
                  const Pass& pass, const ForwardContext& context) {
  const std::int64_t length = windows[pass.first].inputs();
  const auto rows = static_cast<std::int64_t>(pass.count);
  at::Tensor text = at::empty({rows, length + 1}, at::kInt);
  for (std::int64_t row = 0; row < rows; ++row) {
    auto* out = text.mutable_data_ptr<std::int32_t>() + row * (length + 1);
    tokens.copy(windows[pass.first + static_cast<std::size_t>(row)].begin,
                std::span(out, static_cast<std::size_t>(length + 1)));
  }
  const at::Tensor ids = text.to(model.mode().device, at::kLong);
  const at::Tensor nll =
      model.token_nll(ids.narrow(1, 0, length).contiguous(), ids.narrow(1, 1, length).contiguous(), context)
          .to(at::kCPU)
          .contiguous();
  double sum = 0.0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const EvalWindow& window = windows[pass.first + static_cast<std::size_t>(row)];
    const float* values = nll.const_data_ptr<float>() + row * length;
    for (std::int64_t i = window.score_begin - 1 - window.begin; i < length; ++i) sum += static_cast<double>(values[i]);
  }
  return sum;
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

std::optional<HeldOutScore> held_out_score(const Gpt2& model, const TokenSource& tokens, const PrecisionMap& precision,
                                           const EvalConfig& config, std::int64_t sequence_length, int threads,
                                           dist::Communicator& comm, dist::StopPoll& poll, const RangeTable* ranges) {
  const auto windows = eval_windows(tokens_to_read(tokens, config), sequence_length,
                                    config.stride > 0 ? config.stride : sequence_length);
  const std::vector<Pass> passes = plan_passes(windows, config.batch_size);
  // Equal counts on every rank; a rank beyond the last pass contributes zeros that nobody reads.
  const std::size_t ranks = static_cast<std::size_t>(comm.size()), me = static_cast<std::size_t>(comm.rank());
  const std::size_t share = (passes.size() + ranks - 1) / ranks;
  std::vector<double> mine(share), all(share * ranks);
  model.parameters().gather(model.groups_used(precision), comm);
  WeightCache cache;
  const ForwardContext context{.precision = &precision, .weight_cache = &cache, .ranges = ranges};
  // Rounds of passes, as many on every rank, with a question after each; they keep the rank with most threads busy.
  std::vector<std::int64_t> most_threads = {threads};
  comm.all_reduce(view(std::span(most_threads)), dist::ReduceOp::kMax);
  dist::Pace pace;
  std::optional<Error> unreadable;  // the other ranks wait for this one in what follows, and then all throw
  poll.start();
  for (std::size_t begin = 0; begin < share;) {
    const auto count = std::min<std::size_t>(share - begin, static_cast<std::size_t>(most_threads[0] * pace.units()));
    try {
      run_torch_parallel(static_cast<std::int64_t>(count), threads, [&](std::int64_t i) {
        const std::size_t turn = begin + static_cast<std::size_t>(i), pass = turn * ranks + me;
        if (pass < passes.size()) mine[turn] = score_pass(model, tokens, windows, passes[pass], context);
        comm.beat();
      });
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::kData) throw;
      if (!unreadable) unreadable = error;
    }
    begin += count;
    if (begin < share && poll.ask(pace, pace.units()) != 0) return std::nullopt;
  }
  dist::on_every_rank(comm, "held-out tokens", [&] {
    if (unreadable) throw Error(*unreadable);
  });
  comm.all_gather(view(std::span<const double>(mine)), view(std::span(all)));
  HeldOutScore score;
  for (std::size_t pass = 0; pass < passes.size(); ++pass) score.nll_sum += all[(pass % ranks) * share + pass / ranks];
  for (const EvalWindow& window : windows) score.tokens += window.scored();
  return score;
}

}  // namespace qat

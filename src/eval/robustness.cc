#include "src/eval/robustness.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <vector>

#include "kernels/common/error.h"
#include "src/base/rng.h"
#include "src/eval/perplexity.h"
#include "src/eval/token_rank.h"
#include "src/eval/window_pass.h"

// Shape suffixes: B windows, T tokens, d width.

namespace qat {
namespace {

constexpr std::size_t kNumbers = 1 + kDisturbances;  // right ones: clean, then by disturbance

class DisturbedPass {
 public:
  DisturbedPass(const EvaluationJob& job, const std::vector<EvalWindow>& windows, const EvaluationPass& pass,
                const at::Tensor& ids, const ForwardContext& context, const RobustnessOptions& options)
      : job_(job), model_(job.model), windows_(windows), pass_(pass), context_(context), options_(options) {
    const std::int64_t length = windows[pass.first].inputs();
    tokens_ = ids.narrow(1, 0, length).contiguous();
    targets_ = ids.narrow(1, 1, length).contiguous();
    context_.stochastic_gradients = false;
  }

  void count(std::span<double> numbers) const {
    const at::Tensor clean = model_.embeddings(tokens_).to(at::kFloat);
    numbers[0] = right(clean);
    const auto put = [&](Disturbance one, double count) { numbers[1 + static_cast<std::size_t>(one)] = count; };
    put(Disturbance::kNoise, right(clean + drawn(clean, Disturbance::kNoise, fill_normally)));
    put(Disturbance::kFgsm, right(clean + options_.epsilon * gradient(clean).sign()));
    put(Disturbance::kPgd, right(clean + projected_descent(clean)));
    put(Disturbance::kDropped, right(of_tokens(Disturbance::kDropped)));
    put(Disturbance::kReplaced, right(of_tokens(Disturbance::kReplaced)));
  }

 private:
  using Fill = void (*)(kernels::RngKey key, float size, std::span<float> out);
  static void fill_normally(kernels::RngKey key, float size, std::span<float> out) { fill_normal(key, size, out); }
  static void fill_evenly(kernels::RngKey key, float size, std::span<float> out) {
    fill_uniform(key, -size, size, out);
  }

  kernels::RngKey key(std::size_t row, Disturbance one) const {
    return rng_key(options_.seed, RngPurpose::kRobustness, pass_.first + row, 0, static_cast<std::uint64_t>(one));
  }

  // Scored positions whose token is the likeliest. states: [B, T, d].
  double right(const at::Tensor& states) const {
    const at::Tensor hidden = model_.forward({.states = states.to(model_.mode().dtype)}, context_).output;
    const at::Tensor ranks = token_ranks(model_, hidden, targets_, context_);
    const std::int64_t length = targets_.size(1);
    std::int64_t found = 0;
    for (std::size_t row = 0; row < pass_.count; ++row) {
      const EvalWindow& window = windows_[pass_.first + row];
      const std::int64_t* rank = ranks.const_data_ptr<std::int64_t>() + static_cast<std::int64_t>(row) * length;
      found += std::count(rank + (window.score_begin - 1 - window.begin), rank + length, 0);
    }
    return static_cast<double>(found);
  }

  // Of the pass's mean loss: fp32 [B, T, d].
  at::Tensor gradient(const at::Tensor& states) const {
    job_.grid.world().beat();
    return model_.loss_and_gradients({.states = states.to(model_.mode().dtype)}, targets_, context_)
        .gradients.states.to(at::kFloat);
  }

  // Draws of a size of epsilon, for every value of `like`.
  at::Tensor drawn(const at::Tensor& like, Disturbance one, Fill fill) const {
    at::Tensor values = at::empty(like.sizes(), at::kFloat);
    const auto row_size = static_cast<std::size_t>(values.numel()) / pass_.count;
    for (std::size_t row = 0; row < pass_.count; ++row)
      fill(key(row, one), static_cast<float>(options_.epsilon),
           std::span(values.mutable_data_ptr<float>() + row * row_size, row_size));
    return values.to(like.device());
  }

  // Steps of 2 epsilon / steps up the loss, from anywhere within epsilon, and never farther than that.
  at::Tensor projected_descent(const at::Tensor& clean) const {
    at::Tensor moved = drawn(clean, Disturbance::kPgd, fill_evenly);
    const double stride = 2.0 * options_.epsilon / static_cast<double>(options_.steps);
    for (std::int64_t step = 0; step < options_.steps; ++step)
      moved = (moved + stride * gradient(clean + moved).sign()).clamp(-options_.epsilon, options_.epsilon);
    return moved;
  }

  // Embeddings of tokens of which some are id 0, or any id.
  at::Tensor of_tokens(Disturbance one) const {
    at::Tensor changed = tokens_.to(at::kCPU).clone();
    const std::int64_t length = changed.size(1), ids = model_.config().vocab_size;
    std::vector<float> draws(2 * static_cast<std::size_t>(length));
    for (std::size_t row = 0; row < pass_.count; ++row) {
      fill_uniform(key(row, one), 0.0F, 1.0F, draws);
      std::int64_t* token = changed.mutable_data_ptr<std::int64_t>() + static_cast<std::int64_t>(row) * length;
      for (std::int64_t i = 0; i < length; ++i) {
        const float* draw = draws.data() + 2 * i;
        if (static_cast<double>(draw[0]) >= options_.rate) continue;
        const auto any = static_cast<std::int64_t>(static_cast<double>(draw[1]) * static_cast<double>(ids));
        token[i] = one == Disturbance::kDropped ? 0 : std::min(any, ids - 1);
      }
    }
    return model_.embeddings(changed.to(tokens_.device()));
  }

  const EvaluationJob& job_;
  const Gpt2& model_;
  const std::vector<EvalWindow>& windows_;
  const EvaluationPass& pass_;
  ForwardContext context_;
  const RobustnessOptions& options_;
  at::Tensor tokens_, targets_;  // int64 [B, T]
};

}  // namespace

std::optional<RobustnessFigures> robustness(const EvaluationJob& job, const TokenSource& tokens,
                                            const EvalConfig& config, std::int64_t sequence_length,
                                            const RobustnessOptions& options) {
  QAT_CHECK(job.grid.stages() == 1, "inputs are disturbed where the model is in one piece");
  EvalConfig read = config;
  if (options.tokens > 0 && (read.max_tokens == 0 || read.max_tokens > options.tokens + 1))
    read.max_tokens = options.tokens + 1;  // of which all but the first are scored
  const auto windows =
      eval_windows(tokens_to_read(tokens, read), sequence_length, config.stride > 0 ? config.stride : sequence_length);
  const std::vector<EvaluationPass> passes = plan_window_passes(windows, config.batch_size);
  const auto counts =
      run_dealt_passes(job, passes.size(), kNumbers, "held-out tokens",
                       [&](std::size_t pass, const ForwardContext& context, std::span<double> numbers) {
                         const at::NoGradGuard no_grad;
                         const at::Tensor ids = window_tokens(tokens, windows, passes[pass], job.model.mode().device);
                         DisturbedPass(job, windows, passes[pass], ids, context, options).count(numbers);
                       });
  if (!counts) return std::nullopt;
  RobustnessFigures figures{.epsilon = options.epsilon, .rate = options.rate, .steps = options.steps};
  for (const EvalWindow& window : windows) figures.tokens += window.scored();
  for (std::size_t first = 0; first < counts->size(); first += kNumbers) {
    figures.clean += static_cast<std::int64_t>((*counts)[first]);
    for (std::size_t i = 0; i < kDisturbances; ++i)
      figures.right[i] += static_cast<std::int64_t>((*counts)[first + 1 + i]);
  }
  return figures;
}

}  // namespace qat

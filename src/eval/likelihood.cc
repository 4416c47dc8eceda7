#include "src/eval/likelihood.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <numeric>

#include "src/model/stage_transfers.h"
#include "src/quant/quant_method.h"

namespace qat {
namespace {

constexpr std::int64_t kShortest = 16;  // tokens of a pass's rows

std::span<const std::int32_t> inputs_of(const ScoredText& text) {
  return std::span(text.tokens).first(static_cast<std::size_t>(text.inputs()));
}

// The rows of a pass, and where in them the tokens stand that are scored.
struct ScoredRows {
  at::Tensor tokens;   // int64 [B, T]; padding: 0
  at::Tensor places;   // int64 [K], of B * T; as many as there are scored tokens, rounded up
  at::Tensor targets;  // int64 [K]
};

ScoredRows scored_rows(std::span<const ScoredText> texts, const LikelihoodPlan& plan,
                       const LikelihoodPlan::Pass& pass) {
  std::vector<std::int64_t> tokens(pass.count * static_cast<std::size_t>(pass.length)), places, targets;
  for (std::size_t r = 0; r < pass.count; ++r) {
    const LikelihoodPlan::Row& row = plan.rows[pass.first + r];
    const auto begin = static_cast<std::int64_t>(r) * pass.length;
    std::ranges::copy(inputs_of(texts[plan.order[row.first]]), tokens.begin() + begin);
    for (std::size_t t = 0; t < row.count; ++t) {
      const ScoredText& text = texts[plan.order[row.first + t]];
      for (std::int64_t place = text.inputs() - text.scored; place < text.inputs(); ++place) {
        places.push_back(begin + place);
        targets.push_back(text.tokens[static_cast<std::size_t>(place) + 1]);
      }
    }
  }
  places.resize(static_cast<std::size_t>(rounded_length(std::ssize(places))), places.front());
  targets.resize(places.size(), targets.front());
  return {.tokens = at::tensor(tokens, at::kLong).view({static_cast<std::int64_t>(pass.count), pass.length}),
          .places = at::tensor(places, at::kLong),
          .targets = at::tensor(targets, at::kLong)};
}

// fp32 [K] on the CPU, of the places' targets; undefined where another stage has them. alone: the pass is one text, and
// the head, too, reads all of its tokens and none twice.
at::Tensor nll_of_pass(const EvaluationJob& job, const ScoredRows& inputs, bool alone, const ForwardContext& context) {
  const at::NoGradGuard no_grad;
  const at::Device device = job.model.mode().device;
  const at::Tensor hidden = hidden_over_stages(job.model, job.grid, inputs.tokens.to(device), context);
  if (!hidden.defined()) return {};
  const at::Tensor places = inputs.places.to(device), targets = inputs.targets.to(device);
  const at::Tensor rows = hidden.reshape({-1, hidden.size(-1)});
  if (!alone) return job.model.nll_of_hidden(rows.index_select(0, places), targets, context).to(at::kCPU);
  const at::Tensor all = at::zeros({rows.size(0)}, targets.options()).index_copy(0, places, targets);
  return job.model.nll_of_hidden(rows, all, context).index_select(0, places).to(at::kCPU);
}

void sum_up(std::span<const ScoredText> texts, const LikelihoodPlan& plan, const LikelihoodPlan::Pass& pass,
            const at::Tensor& nll, std::span<double> sums) {
  const at::Tensor values = nll.contiguous();
  const auto* value = values.const_data_ptr<float>();
  std::size_t found = 0;
  for (std::size_t r = 0; r < pass.count; ++r) {
    const LikelihoodPlan::Row& row = plan.rows[pass.first + r];
    for (std::size_t t = 0; t < row.count; ++t, ++found)
      for (std::int64_t i = texts[plan.order[row.first + t]].scored; i > 0; --i)
        sums[found] -= static_cast<double>(*value++);
  }
}

// Texts by the length of what is read, longest first, equal ones together.
std::vector<std::size_t> by_length(std::span<const ScoredText> texts) {
  std::vector<std::size_t> order(texts.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    const auto left = inputs_of(texts[a]), right = inputs_of(texts[b]);
    if (left.size() != right.size()) return left.size() > right.size();
    return std::ranges::lexicographical_compare(left, right);
  });
  return order;
}

void count_texts(LikelihoodPlan& plan) {
  for (const LikelihoodPlan::Pass& pass : plan.passes) {
    std::size_t texts = 0;
    for (std::size_t r = 0; r < pass.count; ++r) texts += plan.rows[pass.first + r].count;
    plan.most_texts = std::max(plan.most_texts, texts);
  }
}

}  // namespace

std::int64_t rounded_length(std::int64_t length) {
  const auto wanted = static_cast<std::uint64_t>(std::max(length, kShortest));
  const std::uint64_t up = std::bit_ceil(wanted), between = up / 4 * 3;
  return static_cast<std::int64_t>(between >= wanted && between > static_cast<std::uint64_t>(kShortest) ? between : up);
}

LikelihoodPlan plan_likelihoods(std::span<const ScoredText> texts, std::int64_t pass_tokens, std::int64_t most) {
  LikelihoodPlan plan{.order = by_length(texts), .rows = {}, .passes = {}};
  for (std::size_t i = 0; i < plan.order.size(); ++i) {
    const bool joins = !plan.rows.empty() && std::ranges::equal(inputs_of(texts[plan.order[i]]),
                                                                inputs_of(texts[plan.order[plan.rows.back().first]]));
    if (joins)
      ++plan.rows.back().count;
    else
      plan.rows.push_back({i, 1});
  }
  for (std::size_t first = 0; first < plan.rows.size();) {
    const std::int64_t length = std::min(most, rounded_length(texts[plan.order[plan.rows[first].first]].inputs()));
    const auto fit = static_cast<std::size_t>(std::max<std::int64_t>(1, pass_tokens / length));
    plan.passes.push_back({first, std::min(fit, plan.rows.size() - first), length});
    first += plan.passes.back().count;
  }
  count_texts(plan);
  return plan;
}

LikelihoodPlan plan_alone(std::span<const ScoredText> texts) {
  LikelihoodPlan plan{.order = by_length(texts), .rows = {}, .passes = {}, .most_texts = 1};
  for (std::size_t i = 0; i < plan.order.size(); ++i) {
    plan.rows.push_back({i, 1});
    plan.passes.push_back({i, 1, texts[plan.order[i]].inputs()});
  }
  return plan;
}

bool shares_ranges(const QuantConfig& quant, const PrecisionMap& precision) {
  if (quant.activation.granularity != Granularity::kTensor) return false;
  for (std::int64_t layer = 0; layer < precision.size(); ++layer) {
    const BitWidth width = precision.at(layer).activation;
    if (!width.is_full() && range_source(quant.activation, width) == RangeSource::kDynamic) return true;
  }
  return false;
}

std::optional<std::vector<double>> log_likelihoods(const EvaluationJob& job, const QuantConfig& quant,
                                                   std::span<const ScoredText> texts, std::int64_t pass_tokens) {
  if (texts.empty()) return std::vector<double>{};
  const bool alone = shares_ranges(quant, job.precision);
  const LikelihoodPlan plan =
      alone ? plan_alone(texts) : plan_likelihoods(texts, pass_tokens, job.model.config().n_positions);
  const auto score = [&](std::size_t index, const ForwardContext& context, std::span<double> sums) {
    const LikelihoodPlan::Pass& pass = plan.passes[index];
    const at::Tensor nll = nll_of_pass(job, scored_rows(texts, plan, pass), alone, context);
    if (nll.defined()) sum_up(texts, plan, pass, nll, sums);
  };
  const auto found = run_dealt_passes(job, plan.passes.size(), plan.most_texts, "texts of tasks", score);
  if (!found) return std::nullopt;
  std::vector<double> sums(texts.size());
  for (std::size_t p = 0; p < plan.passes.size(); ++p) {
    const LikelihoodPlan::Row& first = plan.rows[plan.passes[p].first];
    const LikelihoodPlan::Row& last = plan.rows[plan.passes[p].first + plan.passes[p].count - 1];
    for (std::size_t i = first.first; i < last.first + last.count; ++i)
      sums[plan.order[i]] = (*found)[p * plan.most_texts + i - first.first];
  }
  return sums;
}

}  // namespace qat

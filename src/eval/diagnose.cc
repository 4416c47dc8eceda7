#include "src/eval/diagnose.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"
#include "src/eval/perplexity.h"

namespace qat {
namespace {

// int64 [windows, length], as many windows as the text has, at most.
at::Tensor sample(const TokenSource& text, const DiagnosisOptions& options, const at::Device& device) {
  const std::int64_t windows = std::min(options.windows, text.total_tokens() / options.length);
  if (windows == 0)
    throw Error(ErrorKind::kData, fmt::format("the held-out text has {} tokens: a diagnosis reads at least {}",
                                              text.total_tokens(), options.length));
  std::vector<std::int32_t> ids(static_cast<std::size_t>(windows * options.length));
  text.copy(0, ids);
  return at::tensor(std::vector<std::int64_t>(ids.begin(), ids.end())).view({windows, options.length}).to(device);
}

class Patient {
 public:
  Patient(Gpt2& model, const PrecisionMap& precision, const RangeTable* ranges, const at::Tensor& tokens,
          const std::function<void()>& beat)
      : model_(model), precision_(precision), ranges_(ranges), tokens_(tokens), beat_(beat) {}

  // fp32 [B, T, V], with weights from the cache or, without one, made ready for this pass.
  at::Tensor logits(WeightCache* cache = nullptr) const {
    WeightCache own;
    const ForwardContext context{
        .precision = &precision_, .weight_cache = cache != nullptr ? cache : &own, .ranges = ranges_};
    at::Tensor found = model_.logits(model_.hidden(tokens_, context), context).to(at::kFloat);
    if (beat_) beat_();
    return found;
  }

  // Mean over logits of the variance over equal passes, around the first one's so that equal ones give none.
  double run_variance(const at::Tensor& first, WeightCache& cache) const {
    at::Tensor sum = at::zeros_like(first), squares = at::zeros_like(first);
    for (int run = 1; run < kDiagnosisRuns; ++run) {
      const at::Tensor difference = logits(&cache) - first;
      sum += difference, squares += difference.square();
    }
    const double runs = kDiagnosisRuns;
    return (squares / runs - (sum / runs).square()).mean().item<double>();
  }

  double pass_difference(const at::Tensor& first) const {
    double most = 0.0;
    for (int pass = 1; pass < kConsistencyPasses; ++pass)
      most = std::max(most, (logits() - first).abs().max().item<double>());
    return most;
  }

  void look_at_adapters(const at::Tensor& first, Diagnosis& found) {
    std::vector<at::Tensor> zeroed, kept;
    for (const QuantLinear& linear : model_.linears()) {
      const LayerPrecision& layer = precision_.at(linear.spec().index);
      const AdapterSlot* slot = linear.adapter(layer.weight.bits());
      if (slot == nullptr || layer.is_full()) continue;
      const at::Tensor b = model_.parameters().tensor(slot->b);
      ++found.adapters;
      found.adapter_parameters += model_.parameters().info(slot->a).elems + model_.parameters().info(slot->b).elems;
      if (b.abs().max().item<double>() == 0.0) ++found.zero_adapters;
      zeroed.push_back(b), kept.push_back(b.clone());
    }
    if (zeroed.empty()) return;
    for (const at::Tensor& b : zeroed) b.zero_();
    const at::Tensor without = logits();
    for (std::size_t i = 0; i < zeroed.size(); ++i) zeroed[i].copy_(kept[i]);
    found.adapter_effect = (without - first).abs().mean().item<double>();
  }

 private:
  Gpt2& model_;
  const PrecisionMap& precision_;
  const RangeTable* ranges_;
  at::Tensor tokens_;
  const std::function<void()>& beat_;
};

// Of the sample, in windows half a window apart.
double sample_perplexity(const Gpt2& model, const PrecisionMap& precision, const RangeTable* ranges,
                         const TokenSource& text, std::int64_t tokens, std::int64_t length) {
  const auto comm = dist::make_single_comm();
  dist::StopPoll never(*comm);
  const EvaluationJob job{.model = model, .precision = precision, .grid = *comm, .poll = never, .ranges = ranges};
  EvalConfig config;
  config.max_tokens = tokens;
  config.stride = std::max<std::int64_t>(1, length / 2);
  return held_out_score(job, text, config, length)->perplexity();
}

}  // namespace

LogitFigures logit_figures(const at::Tensor& logits) {
  LogitFigures found{.logits = logits.numel(), .top_5 = {}};
  found.not_a_number = logits.isnan().sum().item<std::int64_t>();
  found.infinite = logits.isinf().sum().item<std::int64_t>();
  const at::Tensor finite = logits.masked_select(logits.isfinite());
  if (finite.numel() > 0) {
    found.mean = finite.mean(at::kDouble).item<double>();
    found.deviation = finite.to(at::kDouble).std(/*unbiased=*/false).item<double>();
    found.least = finite.min().item<double>();
    found.most = finite.max().item<double>();
    found.median = finite.median().item<double>();
    found.near_zero = at::lt(finite.abs(), 1e-6).to(at::kDouble).mean().item<double>();
  }
  const at::Tensor log_p = at::log_softmax(logits, -1);
  found.entropy = -(log_p.exp() * log_p).sum(-1).mean(at::kDouble).item<double>();
  const auto [values, ids] = logits.select(0, logits.size(0) - 1).topk(std::min<std::int64_t>(5, logits.size(1)));
  for (std::int64_t i = 0; i < ids.numel(); ++i)
    found.top_5.emplace_back(ids[i].item<std::int64_t>(), values[i].item<double>());
  return found;
}

Diagnosis diagnose(Gpt2& model, const PrecisionMap& precision, const std::string& name, const RangeTable* ranges,
                   const TokenSource& text, const DiagnosisOptions& options) {
  const at::NoGradGuard no_grad;
  const at::Tensor tokens = sample(text, options, model.mode().device);
  Patient patient(model, precision, ranges, tokens, options.beat);
  WeightCache cache;
  const at::Tensor first = patient.logits(&cache);
  Diagnosis found{.bits = name, .logits = logit_figures(first.flatten(0, 1))};
  found.run_variance = patient.run_variance(first, cache);
  found.pass_difference = patient.pass_difference(first);
  found.drift =
      (first.select(0, first.size(0) - 1).mean(at::kDouble) - first.select(0, 0).mean(at::kDouble)).item<double>();
  if (tokens.numel() > 1)
    found.perplexity = sample_perplexity(model, precision, ranges, text, tokens.numel(), options.length);
  patient.look_at_adapters(first, found);
  for (const ParameterInfo& info : model.parameters().infos()) found.parameters += info.elems;
  return found;
}

}  // namespace qat

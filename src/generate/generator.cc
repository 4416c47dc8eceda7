#include "src/generate/generator.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/common/device_graph.h"
#include "kernels/common/error.h"
#include "src/base/parallel.h"
#include "src/model/kv_cache.h"
#include "src/quant/own_stream.h"
#include "src/quant/torch_view.h"

// Shape letters: B texts, T tokens, d width, V vocabulary.

namespace qat {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

struct Text {
  std::vector<int> tokens;  // the prompt's and new ones
  std::size_t prompt = 0;   // how many are the prompt's
  std::uint64_t number = 0;
  bool done = false;
  StopReason stop = StopReason::kMaxTokens;

  std::span<const int> fresh() const { return std::span(tokens).subspan(prompt); }
};

class Batch {
 public:
  Batch(const Gpt2& model, const ForwardContext& context, std::span<const Prompt> prompts,
        const GenerateOptions& options)
      : model_(model), context_(context), options_(options) {
    const std::int64_t most = model.config().n_positions;
    std::vector<std::int64_t> lengths;
    std::int64_t longest = 0;
    for (const Prompt& prompt : prompts) {
      const auto length = std::ssize(prompt.tokens);
      QAT_CHECK(length >= 1 && length <= most, "a prompt has 1 to n_positions tokens");
      texts_.push_back({.tokens = prompt.tokens, .prompt = prompt.tokens.size(), .number = prompt.number});
      texts_.back().done = length == most;
      if (texts_.back().done) texts_.back().stop = StopReason::kPositions;
      lengths.push_back(length);
      longest = std::max(longest, length);
    }
    if (!options_.cache) return;
    // The last token of a text is never an input.
    cache_ = std::make_unique<KvCache>(model.config(), model.mode(), lengths,
                                       std::clamp(longest + options_.max_new_tokens - 1, padded(longest), most));
    context_.kv_cache = cache_.get();
  }

  const std::vector<Text>& texts() const { return texts_; }
  bool done() const {
    return std::all_of(texts_.begin(), texts_.end(), [](const Text& text) { return text.done; });
  }

  // Behind the texts as they are: [B, V].
  at::Tensor first_logits() const { return logits_of(whole_pass()); }
  // The same once choose() has added a token to each.
  at::Tensor next_logits() const {
    return cache_ ? logits_of(model_.hidden(last_, context_).select(1, 0)) : first_logits();
  }

  void choose(const at::Tensor& logits) {
    if (is_plain_greedy()) {
      find_largest(logits);
      append_all(largest());
    } else {
      append_all(on_host(logits));
    }
  }
  // Whether next_logits() and choose() may be recorded.
  bool may_record() const { return options_.graph && model_.mode().is_cuda() && cache_ && is_plain_greedy(); }
  // Both of them, as one recorded pass. Both have been called before.
  void step_by_graph() {
    const kernels::Exec exec = exec_for(last_);
    if (!graph_.is_recorded()) graph_.record(exec, [&] { find_largest(next_logits()); });
    graph_.launch(exec);
    append_all(largest());
  }

 private:
  // On a GPU lengths are rounded up: kernels are chosen, and some made, for each length that comes.
  std::int64_t padded(std::int64_t length) const {
    constexpr std::int64_t kMultiple = 64;
    if (!model_.mode().is_cuda()) return length;
    return std::min((length + kMultiple - 1) / kMultiple * kMultiple, model_.config().n_positions);
  }

  // Hidden states behind each text, of a pass over all of them: [B, d].
  at::Tensor whole_pass() const {
    std::size_t longest = 0;
    for (const Text& text : texts_) longest = std::max(longest, text.tokens.size());
    const std::int64_t rows = std::ssize(texts_), columns = padded(static_cast<std::int64_t>(longest));
    const at::Tensor tokens = at::zeros({rows, columns}, at::kLong), last = at::empty({rows}, at::kLong);
    for (std::int64_t b = 0; b < rows; ++b) {
      const std::vector<int>& text = texts_[static_cast<std::size_t>(b)].tokens;
      std::copy(text.begin(), text.end(), tokens.mutable_data_ptr<std::int64_t>() + b * columns);
      last.mutable_data_ptr<std::int64_t>()[b] = b * columns + std::ssize(text) - 1;
    }
    const at::Device device = model_.mode().device;
    const at::Tensor hidden = model_.hidden(tokens.to(device), context_);
    return hidden.flatten(0, 1).index_select(0, last.to(device));
  }

  at::Tensor logits_of(const at::Tensor& hidden) const {
    const at::Tensor all = model_.next_logits(hidden, context_);
    return options_.vocabulary > 0 ? all.narrow(1, 0, std::min<std::int64_t>(options_.vocabulary, all.size(1))) : all;
  }

  bool is_plain_greedy() const { return options_.sampling.is_greedy() && options_.sampling.repetition_penalty == 1.0; }

  // Each text's likeliest token, for the next pass, and beside it its logit. Where they are they stay.
  void find_largest(const at::Tensor& logits) {
    const auto [largest, ids] = logits.max(/*dim=*/1);
    const at::Tensor both = at::stack({ids.to(at::kDouble), largest.to(at::kDouble)});
    if (!found_.defined()) {
      last_ = ids.unsqueeze(1).clone(), found_ = both;
    } else {
      last_.copy_(ids.unsqueeze(1)), found_.copy_(both);
    }
  }

  // What was found, here, in one copy.
  std::vector<int> largest() const {
    const at::Tensor both = found_.to(at::kCPU);
    const auto* values = both.const_data_ptr<double>();
    std::vector<int> chosen;
    for (std::size_t b = 0; b < texts_.size(); ++b) {
      check_number(texts_[b], values[texts_.size() + b]);
      chosen.push_back(static_cast<int>(values[b]));
    }
    return chosen;
  }

  std::vector<int> on_host(const at::Tensor& logits) {
    const at::Tensor all = logits.to(at::kCPU).contiguous().clone();
    const auto columns = static_cast<std::size_t>(all.size(1));
    std::vector<int> chosen(texts_.size());
    run_parallel(std::ssize(texts_), options_.threads, [&](std::int64_t i) {
      const auto b = static_cast<std::size_t>(i);
      if (texts_[b].done) return;
      chosen[b] = choice(texts_[b], {all.mutable_data_ptr<float>() + b * columns, columns});
    });
    last_ = at::tensor(chosen, at::kLong).unsqueeze(1).to(model_.mode().device);
    return chosen;
  }

  int choice(const Text& text, std::span<float> logits) const {
    for (const float logit : logits) check_number(text, static_cast<double>(logit));
    const SamplingOptions& sampling = options_.sampling;
    penalize_repetition(logits, text.tokens, sampling.repetition_penalty);
    if (sampling.is_greedy()) return greedy_choice(logits);
    return sampled_choice(candidates(logits, sampling), sampling_draw(options_.seed, text.number, text.tokens.size()));
  }

  void check_number(const Text& text, double logit) const {
    if (text.done || std::isfinite(logit)) return;
    throw Error(ErrorKind::kDiverged, fmt::format("the model's logits behind token {} of prompt {} are not finite: its "
                                                  "parameters are not sound at these widths",
                                                  text.tokens.size(), text.number + 1));
  }

  void append_all(const std::vector<int>& tokens) {
    for (std::size_t b = 0; b < texts_.size(); ++b) append(texts_[b], tokens[b]);
  }

  void append(Text& text, int token) const {
    if (text.done) return;
    const auto end = [&](StopReason why) { text.done = true, text.stop = why; };
    if (token == options_.end_of_text) return end(StopReason::kTextEnd);
    text.tokens.push_back(token);
    if (options_.is_enough && options_.is_enough(text.fresh())) return end(StopReason::kStopText);
    if (std::ssize(text.fresh()) >= options_.max_new_tokens) return end(StopReason::kMaxTokens);
    if (std::cmp_greater_equal(text.tokens.size(), model_.config().n_positions)) end(StopReason::kPositions);
  }

  const Gpt2& model_;
  ForwardContext context_;
  const GenerateOptions& options_;
  std::vector<Text> texts_;
  std::unique_ptr<KvCache> cache_;  // null: without
  at::Tensor last_;                 // int64 [B, 1]: each text's last token
  at::Tensor found_;                // double [2, B]: of greedy texts that token, and its logit
  DeviceGraph graph_;               // of a step
};

}  // namespace

GenerationWork& GenerationWork::operator+=(const GenerationWork& other) {
  prompt_tokens += other.prompt_tokens, new_tokens += other.new_tokens, step_tokens += other.step_tokens;
  prompt_seconds += other.prompt_seconds, step_seconds += other.step_seconds;
  return *this;
}

std::vector<GeneratedText> generate(const Gpt2& model, const ForwardContext& context, std::span<const Prompt> prompts,
                                    const GenerateOptions& options, GenerationWork* work) {
  QAT_CHECK(!context.training && context.kv_cache == nullptr, "texts are generated without dropout");
  QAT_CHECK(options.max_new_tokens >= 1, "a text has a new token at least");
  const at::NoGradGuard no_grad;
  std::optional<OwnStream> stream;
  if (options.graph && model.mode().is_cuda()) stream.emplace(model.mode().device);
  GenerationWork done;
  auto begin = Clock::now();
  Batch batch(model, context, prompts, options);
  if (!batch.done()) batch.choose(batch.first_logits());
  done.prompt_seconds = seconds_since(begin);
  begin = Clock::now();
  // The first step by itself: it chooses kernels, and makes what later ones find made.
  for (bool recorded = false; !batch.done(); recorded = batch.may_record())
    recorded ? batch.step_by_graph() : batch.choose(batch.next_logits());
  done.step_seconds = seconds_since(begin);
  std::vector<GeneratedText> texts;
  for (const Text& text : batch.texts()) {
    texts.push_back({.tokens = {text.fresh().begin(), text.fresh().end()}, .stop = text.stop});
    done.prompt_tokens += static_cast<std::int64_t>(text.prompt);
    done.new_tokens += std::ssize(texts.back().tokens);
    done.step_tokens += std::max<std::int64_t>(0, std::ssize(texts.back().tokens) - 1);
  }
  if (work != nullptr) *work += done;
  return texts;
}

std::string shares_ranges(const Gpt2& model, const QuantConfig& quant, const PrecisionMap& precision) {
  if (quant.activation.granularity == Granularity::kToken || quant.activation.granularity == Granularity::kChannel)
    return {};
  for (const QuantLinear& linear : model.linears()) {
    const BitWidth width = precision.at(linear.spec().index).activation;
    if (!width.is_full() && linear.activation_quantizer().source(width) == RangeSource::kDynamic)
      return linear.spec().name;
  }
  return {};
}

}  // namespace qat

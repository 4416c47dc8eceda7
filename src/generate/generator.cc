#include "src/generate/generator.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include "kernels/common/device_graph.h"
#include "kernels/common/device_stream.h"
#include "kernels/common/error.h"
#include "src/base/rng.h"
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
    put_draws(logits.device());
    find(logits);
    append_all(chosen_.to(at::kCPU));
  }
  // Whether next_logits() and choose() may be recorded.
  bool may_record() const { return options_.graph && model_.mode().is_cuda() && cache_; }
  // All that are left, each a recorded pass; both have been called before. A pass is enqueued before the tokens of the
  // one before it are here, for it finds them where they are: the GPU waits for nothing. If a text's end ends them all,
  // the pass behind it was for nothing.
  void run_recorded() {
    const kernels::Exec exec = exec_for(last_);
    graph_.record(exec, [&] { find(next_logits()); });
    std::array<Flight, 2> flights = {flight(), flight()};
    std::size_t launched = 0, landed = 0;
    while (!done()) {
      while (launched < landed + flights.size() && std::cmp_less(launched - landed, most_left()))
        launch(exec, flights[launched % flights.size()], launched - landed), ++launched;
      const Flight& first = flights[landed % flights.size()];
      first.landed.synchronize();
      ++landed;
      append_all(first.chosen);
    }
    if (launched > landed) flights[landed % flights.size()].landed.synchronize();
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

  // A pass that is under way, in page-locked memory.
  struct Flight {
    at::Tensor draws, chosen;  // what draws_ was given, and what comes of chosen_
    DeviceEvent landed{Device::kCuda};
  };
  Flight flight() const {
    const at::TensorOptions options = at::TensorOptions(at::kLong).pinned_memory(true);
    return {.draws = at::empty({std::ssize(texts_)}, options), .chosen = at::empty(chosen_.sizes(), options)};
  }
  // ahead: so many passes have not landed.
  void launch(const kernels::Exec& exec, Flight& flight, std::size_t ahead) {
    if (draws_.defined()) {
      fill_draws(flight.draws, ahead);
      draws_.copy_(flight.draws, /*non_blocking=*/true);
    }
    graph_.launch(exec);
    flight.chosen.copy_(chosen_, /*non_blocking=*/true);
    flight.landed.record(exec.stream);
  }
  // Tokens that the text with most of them may still get.
  std::int64_t most_left() const {
    std::int64_t most = 0;
    for (const Text& text : texts_)
      if (!text.done)
        most = std::max(most, std::min(options_.max_new_tokens - std::ssize(text.fresh()),
                                       model_.config().n_positions - std::ssize(text.tokens)));
    return most;
  }

  // What the next tokens are drawn with, in a place that stays where it is.
  void put_draws(const at::Device& device) {
    if (options_.sampling.is_greedy()) return;
    const at::Tensor draws = at::empty({std::ssize(texts_)}, at::kLong);
    fill_draws(draws, /*ahead=*/0);
    draws_.defined() ? (void)draws_.copy_(draws) : (void)(draws_ = draws.to(device));
  }
  void fill_draws(const at::Tensor& draws, std::size_t ahead) const {
    for (std::size_t b = 0; b < texts_.size(); ++b)
      draws.mutable_data_ptr<std::int64_t>()[b] =
          sampling_draw(options_.seed, texts_[b].number, texts_[b].tokens.size() + ahead);
  }

  // Each text's next token, where the logits are, also for the next pass. What is found stays where it is.
  void find(const at::Tensor& logits) {
    if (!chosen_.defined()) {
      chosen_ = at::empty({2, std::ssize(texts_)}, at::TensorOptions(logits.device()).dtype(at::kLong));
      last_ = chosen_[0].unsqueeze(1);
      if (options_.sampling.has_penalty()) seen_ = tokens_so_far(logits.size(1)).to(logits.device());
    }
    const auto places = [](const at::Tensor& row) {
      return std::span(row.data_ptr<std::int64_t>(), static_cast<std::size_t>(row.numel()));
    };
    Matrix<std::uint8_t> seen;
    if (seen_.defined()) seen = {seen_.data_ptr<std::uint8_t>(), seen_.size(0), seen_.size(1)};
    kernels::choose_tokens(exec_for(logits), const_float_matrix(logits), options_.sampling, seen,
                           draws_.defined() ? places(draws_) : std::span<std::int64_t>(), places(chosen_[0]),
                           places(chosen_[1]));
  }

  // 1 for each token that a text has: [B, V].
  at::Tensor tokens_so_far(std::int64_t vocabulary) const {
    const at::Tensor seen = at::zeros({std::ssize(texts_), vocabulary}, at::kByte);
    auto* row = seen.data_ptr<std::uint8_t>();
    for (const Text& text : texts_) {
      for (const int token : text.tokens)
        if (token < vocabulary) row[token] = 1;
      row += vocabulary;
    }
    return seen;
  }

  // chosen: what was found, here.
  void append_all(const at::Tensor& chosen) {
    const auto* tokens = chosen.const_data_ptr<std::int64_t>();
    const auto* finite = tokens + texts_.size();
    for (std::size_t b = 0; b < texts_.size(); ++b) {
      if (texts_[b].done) continue;
      if (finite[b] == 0)
        throw Error(ErrorKind::kDiverged,
                    fmt::format("the model's logits behind token {} of prompt {} are not finite: its parameters are "
                                "not sound at these widths",
                                texts_[b].tokens.size(), texts_[b].number + 1));
      append(texts_[b], static_cast<int>(tokens[b]));
    }
  }

  void append(Text& text, int token) const {
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
  at::Tensor chosen_;               // int64 [2, B]: each text's last token; whether its logits were finite
  at::Tensor last_;                 // [B, 1]: the first row of it
  at::Tensor draws_;                // int64 [B]: of texts that are drawn
  at::Tensor seen_;                 // uint8 [B, V]: with a penalty, whether the text has the token
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
  if (!batch.done()) batch.choose(batch.next_logits());
  if (!batch.done() && batch.may_record()) batch.run_recorded();
  while (!batch.done()) batch.choose(batch.next_logits());
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

std::int64_t sampling_draw(std::uint64_t seed, std::uint64_t prompt, std::uint64_t position) {
  const kernels::Philox4 block =
      kernels::philox(rng_key(seed, RngPurpose::kGeneration, position, prompt), /*counter=*/0);
  const std::uint64_t bits = (static_cast<std::uint64_t>(block.v[0]) << 32U) | block.v[1];
  return static_cast<std::int64_t>(bits >> 11U);
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

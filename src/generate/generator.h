// Text from a language model, a token at a time, for a batch of prompts of any lengths.
//
// A token is chosen by kernels/sampling/choose_tokens.h from the logits behind the text so far, where the model is.
// Each text ends by itself: its row goes on through the passes of the others, and what comes of it is dropped.
//
// With the cache of keys and values (src/model/kv_cache.h) a token is a pass over one token; without it a pass over the
// whole text, whose logits are the same but for the order in which fp32 sums are added.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/sampling/choose_tokens.h"
#include "src/base/named_enum.h"
#include "src/model/gpt2.h"

namespace qat {

// Why a text ends.
enum class StopReason : unsigned char {
  kTextEnd,    // the model says so
  kStopText,   // GenerateOptions::is_enough says so
  kMaxTokens,  // max_new_tokens
  kPositions,  // prompt and text are as long as the model takes (model.n_positions)
};
template <>
struct EnumNames<StopReason> {
  static constexpr std::array names{"end_of_text", "stop", "max_new_tokens", "n_positions"};
};

struct Prompt {
  std::vector<int> tokens;   // 1 to n_positions of them
  std::uint64_t number = 0;  // names its random draws
};

struct GenerateOptions {
  std::int64_t max_new_tokens = 64;  // of each text, at least 1
  int end_of_text = -1;              // the token that ends a text and is no part of it; -1: none
  int vocabulary = 0;                // only tokens below it are chosen; 0: all that the model has
  kernels::SamplingOptions sampling;
  std::uint64_t seed = 1;
  bool cache = true;
  bool graph = true;  // on a GPU, with the cache: a token's pass is recorded once (device_graph.h)
  // Whether a text is to end here, asked after each of its new tokens, which it is given; null: it goes on.
  std::function<bool(std::span<const int> tokens)> is_enough{};
};

struct GeneratedText {
  std::vector<int> tokens;  // new ones
  StopReason stop = StopReason::kMaxTokens;
};

// What was done in how much time. The first new token of a text comes out of its prompt's pass.
struct GenerationWork {
  std::int64_t prompt_tokens = 0, new_tokens = 0;  // padding and tokens that are dropped do not count
  std::int64_t step_tokens = 0;                    // new tokens without each text's first
  double prompt_seconds = 0.0, step_seconds = 0.0;

  GenerationWork& operator+=(const GenerationWork& other);
};

// One text for each prompt, which go through the model together. context: without gradient, training or cache of keys
// and values; a cache of weights keeps what is made of them from pass to pass. Throws Error(kDiverged), naming the
// prompt, for logits that are not numbers. Adds to `work` unless it is null.
std::vector<GeneratedText> generate(const Gpt2& model, const ForwardContext& context, std::span<const Prompt> prompts,
                                    const GenerateOptions& options, GenerationWork* work = nullptr);

// The draw for one token, choose_tokens's: 53 random bits, a function of the seed, the prompt's number and the token's
// position in the text alone, whatever other prompts there are and wherever they are worked on.
std::int64_t sampling_draw(std::uint64_t seed, std::uint64_t prompt, std::uint64_t position);

// Why a token's pass depends on the tokens beside it at these widths: some layer's inputs share one dynamic range. The
// layer's name; empty: it depends on its own text alone. Such a model is the same model only without the cache and with
// one prompt a batch.
std::string shares_ranges(const Gpt2& model, const QuantConfig& quant, const PrecisionMap& precision);

}  // namespace qat

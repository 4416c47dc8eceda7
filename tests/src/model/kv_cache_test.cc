// Passes token by token with a cache of keys and values against passes over whole sequences.
#include "src/model/kv_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "kernels/common/error.h"
#include "tests/support/kernel_data.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;
using ::testing::HasSubstr;

using Lengths = std::vector<std::int64_t>;

// Row b's first `lengths[b]` tokens are its prompt. The hidden states of every token from its prompt's last on, as
// passes with a cache give them: at [b][t], undefined before.
std::vector<std::vector<at::Tensor>> step_by_step(const Gpt2& model, ForwardContext context, const at::Tensor& tokens,
                                                  const Lengths& lengths, std::int64_t capacity,
                                                  std::int64_t padding = 5) {
  const at::NoGradGuard no_grad;
  const std::int64_t batch = tokens.size(0), total = tokens.size(1);
  KvCache cache(model.config(), model.mode(), lengths, capacity);
  context.kv_cache = &cache;
  const std::int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  at::Tensor prompts = tokens.narrow(1, 0, longest).clone();
  for (std::int64_t b = 0; b < batch; ++b)
    prompts[b]
        .narrow(0, lengths[static_cast<std::size_t>(b)], longest - lengths[static_cast<std::size_t>(b)])
        .fill_(padding);
  std::vector found(static_cast<std::size_t>(batch), std::vector<at::Tensor>(static_cast<std::size_t>(total)));
  const at::Tensor first = model.hidden(prompts, context);
  Lengths at = lengths;
  for (std::int64_t b = 0; b < batch; ++b) {
    auto& place = at[static_cast<std::size_t>(b)];
    found[static_cast<std::size_t>(b)][static_cast<std::size_t>(place - 1)] = first[b][place - 1];
  }
  while (*std::min_element(at.begin(), at.end()) < total) {
    at::Tensor next = at::empty({batch, 1}, at::kLong);
    for (std::int64_t b = 0; b < batch; ++b)
      next[b][0] = tokens[b][std::min(at[static_cast<std::size_t>(b)], total - 1)];
    const at::Tensor step = model.hidden(next, context);
    for (std::int64_t b = 0; b < batch; ++b) {
      auto& place = at[static_cast<std::size_t>(b)];
      if (place < total) found[static_cast<std::size_t>(b)][static_cast<std::size_t>(place)] = step[b][0];
      ++place;
    }
  }
  return found;
}

// The largest difference from a pass over the whole sequences.
double worst_difference(const Gpt2& model, const ForwardContext& context, const at::Tensor& tokens,
                        const Lengths& lengths, std::int64_t capacity) {
  const at::NoGradGuard no_grad;
  const at::Tensor whole = model.hidden(tokens, context);
  double worst = 0.0;
  const auto found = step_by_step(model, context, tokens, lengths, capacity);
  for (std::size_t b = 0; b < found.size(); ++b)
    for (std::size_t t = 0; t < found[b].size(); ++t) {
      if (t + 1 < static_cast<std::size_t>(lengths[b])) continue;
      const at::Tensor want = whole[static_cast<std::int64_t>(b)][static_cast<std::int64_t>(t)];
      worst = std::max(worst, (found[b][t] - want).abs().max().item<double>());
    }
  return worst;
}

TinyModel tiny(int kv_bits = BitWidth::kFull) {
  TinyModel one;
  one.quant.kv_bits = kv_bits;
  one.build();
  one.randomize();
  return one;
}

// Hidden states are of the size 1. Sums of fp32 are added in another order, and at 16 bits that turns codes, whose
// steps are 3e-5 of a token's largest value, into their neighbours; at 8 bits and below it is rare and would be seen at
// once.
double tolerance(int bits) { return bits == 16 ? 3e-4 : 2e-5; }

TEST(KvCache, GivesWhatWholeSequencesGiveAtEveryWidth) {
  for (const int kv_bits : {2, 4, 8, 9, 16, 32}) {
    const TinyModel one = tiny(kv_bits);
    for (const int bits : {2, 4, 8, 16, 32}) {
      SCOPED_TRACE(testing::Message() << bits << " bits, keys and values " << kv_bits);
      const PrecisionMap map =
          PrecisionMap::uniform(one.config.linears(), bits, bits, BitWidth::kFull, bits == 32 ? 32 : kv_bits);
      EXPECT_LT(worst_difference(*one.model, one.context(map), one.tokens(3, 12), {4, 7, 1}, 12), tolerance(bits));
    }
  }
}

TEST(KvCache, GivesWhatWholeSequencesGiveUnderAMapOfWidths) {
  const TinyModel one = tiny();
  for (const char* text : {"attn=8,mlp=4,act=8,kv=8", "8,4,32,8,4,8,8,32", "stripe8&4"}) {
    SCOPED_TRACE(text);
    const PrecisionMap map = PrecisionMap::of_bitmap(one.model->linear_names(), parse_bitmap(text),
                                                     one.config.bitmap_shape(), one.quant, BitWidth::kFull);
    EXPECT_LT(worst_difference(*one.model, one.context(map), one.tokens(2, 11), {5, 2}, 12), tolerance(8));
  }
}

// What stands behind a prompt, beside it or unused in the cache changes no bit where products are sums of codes.
TEST(KvCache, PaddingAndRoomChangeNoBit) {
  const TinyModel one = tiny(8);
  const PrecisionMap map = PrecisionMap::uniform(one.config.linears(), 8, 8, BitWidth::kFull, 8);
  const at::Tensor tokens = one.tokens(2, 9);
  const auto want = step_by_step(*one.model, one.context(map), tokens, {6, 3}, /*capacity=*/9, /*padding=*/5);
  const auto got = step_by_step(*one.model, one.context(map), tokens, {6, 3}, /*capacity=*/12, /*padding=*/17);
  for (std::size_t b = 0; b < want.size(); ++b)
    for (std::size_t t = 0; t < want[b].size(); ++t) {
      if (!want[b][t].defined()) continue;
      EXPECT_TRUE(at::equal(got[b][t], want[b][t])) << b << " " << t;
    }
}

TEST(KvCache, FirstPassHasTheBitsOfAPassWithout) {
  const TinyModel one = tiny(4);
  const at::NoGradGuard no_grad;
  const PrecisionMap map = PrecisionMap::uniform(one.config.linears(), 4, 8, BitWidth::kFull, 4);
  KvCache cache(one.config, one.model->mode(), {9, 2}, 12);
  ForwardContext context = one.context(map);
  const at::Tensor want = one.model->hidden(one.tokens(2, 9), context);
  context.kv_cache = &cache;
  EXPECT_TRUE(at::equal(one.model->hidden(one.tokens(2, 9), context), want));
}

TEST(KvCache, NextLogitsAreTheRowsOfAllLogits) {
  for (const bool quantized : {false, true}) {
    TinyModel one;
    one.config.quantize_lm_head = quantized;
    one.build();
    one.randomize();
    const at::NoGradGuard no_grad;
    for (const int bits : {4, 16, 32}) {
      const PrecisionMap map = PrecisionMap::uniform(one.config.linears(), bits, bits);
      WeightCache weights;
      ForwardContext context = one.context(map);
      context.weight_cache = &weights;
      const at::Tensor hidden = one.model->hidden(one.tokens(3, 4), context);
      const at::Tensor all = one.model->logits(hidden, context);
      for (int repeat = 0; repeat < 2; ++repeat)
        EXPECT_TRUE(at::allclose(one.model->next_logits(hidden.select(1, 2), context), all.select(1, 2), 1e-5, 1e-5))
            << bits << " " << quantized;
    }
  }
}

// A sequence that is full stays as long as it is, beside others that go on, and disturbs none of them.
TEST(KvCache, AFullSequenceDisturbsNoOther) {
  const TinyModel one = tiny(8);
  const at::NoGradGuard no_grad;
  const PrecisionMap map = PrecisionMap::uniform(one.config.linears(), 8, 8, BitWidth::kFull, 8);
  const at::Tensor tokens = one.tokens(2, 12);
  const auto want = step_by_step(*one.model, one.context(map), tokens, {9, 2}, /*capacity=*/12);
  const auto got = step_by_step(*one.model, one.context(map), tokens, {9, 2}, /*capacity=*/10);
  for (std::size_t t = 1; t < 10; ++t) EXPECT_TRUE(at::equal(got[1][t], want[1][t])) << t;
}

TEST(KvCache, RefusesWhatItIsNotFor) {
  const TinyModel one = tiny();
  const PrecisionMap map = PrecisionMap::uniform(one.config.linears(), 8, 8);
  const auto message = [&](const auto& body) { return test::error_of(ErrorKind::kInternal, body); };
  EXPECT_THAT(message([&] { KvCache cache(one.config, {}, {4}, 13); }), HasSubstr("room for 13"));
  EXPECT_THAT(message([&] { KvCache cache(one.config, {}, {0, 4}, 12); }), HasSubstr("prompts of 0 to 4"));
  EXPECT_THAT(message([&] { KvCache cache(one.config, {}, {4, 9}, 8); }), HasSubstr("4 to 9"));
  KvCache cache(one.config, {}, {4, 4}, 8);
  ForwardContext context = one.context(map);
  context.kv_cache = &cache;
  EXPECT_THAT(message([&] { one.model->hidden(one.tokens(2, 4), context); }), HasSubstr("no gradient"));
  const at::NoGradGuard no_grad;
  EXPECT_THAT(message([&] { one.model->hidden(one.tokens(3, 4), context); }), HasSubstr("3 sequences"));
  EXPECT_THAT(message([&] { one.model->hidden(one.tokens(2, 9), context); }), HasSubstr("9 tokens"));
  one.model->hidden(one.tokens(2, 4), context);
  EXPECT_THAT(message([&] { one.model->hidden(one.tokens(2, 2), context); }), HasSubstr("2 tokens"));
}

}  // namespace
}  // namespace qat

#include "src/generate/generator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <set>

#include "tests/support/kernel_data.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class Generator : public ::testing::Test {
 protected:
  void SetUp() override { build(); }
  void build() {
    tiny_.config.n_positions = 24;
    tiny_.build();
    tiny_.randomize();
  }
  std::vector<GeneratedText> run(const GenerateOptions& options, const std::vector<Prompt>& prompts, int bits = 8,
                                 GenerationWork* work = nullptr) const {
    const PrecisionMap map =
        PrecisionMap::uniform(tiny_.config.linears(), bits, bits, BitWidth::kFull, bits == BitWidth::kFull ? bits : 8);
    WeightCache weights;
    ForwardContext context = tiny_.context(map);
    context.weight_cache = &weights;
    return generate(*tiny_.model, context, prompts, options, work);
  }
  std::vector<std::vector<int>> tokens(const GenerateOptions& options, const std::vector<Prompt>& prompts,
                                       int bits = 8) const {
    std::vector<std::vector<int>> all;
    for (const GeneratedText& text : run(options, prompts, bits)) all.push_back(text.tokens);
    return all;
  }

  TinyModel tiny_;
  const std::vector<Prompt> prompts_ = {{{3, 1, 4, 1, 5}, 0}, {{9}, 1}, {{2, 6, 5, 3, 5, 8, 9, 7}, 2}};
};

// The largest logit behind the whole text, again and again.
TEST_F(Generator, GreedyTextIsTheLargestLogitOfWholePasses) {
  const PrecisionMap map = PrecisionMap::uniform(tiny_.config.linears(), 8, 8, BitWidth::kFull, 8);
  const auto got = tokens({.max_new_tokens = 10}, prompts_);
  for (std::size_t i = 0; i < prompts_.size(); ++i) {
    const at::NoGradGuard no_grad;
    std::vector<std::int64_t> text(prompts_[i].tokens.begin(), prompts_[i].tokens.end());
    std::vector<int> want;
    while (want.size() < 10) {
      const at::Tensor ids = at::tensor(text, at::kLong).unsqueeze(0);
      const at::Tensor logits =
          tiny_.model->logits(tiny_.model->hidden(ids, tiny_.context(map)), tiny_.context(map))[0][-1];
      want.push_back(static_cast<int>(logits.argmax().item<std::int64_t>()));
      text.push_back(want.back());
    }
    EXPECT_EQ(got[i], want) << i;
  }
}

TEST_F(Generator, TheCacheChangesNoText) {
  for (const int bits : {32, 8, 4, 2})
    for (const double temperature : {0.0, 0.8}) {
      SCOPED_TRACE(testing::Message() << bits << " bits at " << temperature);
      GenerateOptions options{.max_new_tokens = 14,
                              .sampling = {.temperature = temperature, .top_k = 12, .top_p = 0.9}};
      const auto with = tokens(options, prompts_, bits);
      options.cache = false;
      EXPECT_EQ(with, tokens(options, prompts_, bits));
    }
}

TEST_F(Generator, SampledTextDependsOnSeedAndPromptAlone) {
  GenerateOptions options{.max_new_tokens = 12, .sampling = {.temperature = 1.5}, .seed = 4};
  const auto all = tokens(options, prompts_);
  EXPECT_EQ(all, tokens(options, prompts_));
  for (std::size_t i = 0; i < prompts_.size(); ++i) EXPECT_EQ(tokens(options, {prompts_[i]})[0], all[i]) << i;
  // Equal prompts of different numbers are different texts; other seeds, too.
  const auto twins = tokens(options, {{{3, 1, 4}, 0}, {{3, 1, 4}, 1}});
  EXPECT_NE(twins[0], twins[1]);
  options.seed = 5;
  EXPECT_NE(all, tokens(options, prompts_));
}

TEST_F(Generator, EachTextEndsByItself) {
  const auto whole = tokens({.max_new_tokens = 12}, prompts_);
  // A token of the first text that others may have, too: each ends before it.
  const int end = whole[0][4];
  const auto texts = run({.max_new_tokens = 12, .end_of_text = end}, prompts_);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto until = std::find(whole[i].begin(), whole[i].end(), end);
    EXPECT_EQ(texts[i].tokens, std::vector<int>(whole[i].begin(), until)) << i;
    EXPECT_EQ(texts[i].stop, until == whole[i].end() ? StopReason::kMaxTokens : StopReason::kTextEnd) << i;
  }
  EXPECT_LE(texts[0].tokens.size(), 4U);
}

TEST_F(Generator, ATextIsNoLongerThanTheModelTakes) {
  const std::vector<int> full(24, 3), long_one(22, 3);
  const auto texts = run({.max_new_tokens = 9}, {{full, 0}, {long_one, 1}, {{3}, 2}});
  EXPECT_THAT(texts[0].tokens, IsEmpty());
  EXPECT_EQ(texts[0].stop, StopReason::kPositions);
  EXPECT_THAT(texts[1].tokens, SizeIs(2));
  EXPECT_EQ(texts[1].stop, StopReason::kPositions);
  EXPECT_THAT(texts[2].tokens, SizeIs(9));
  EXPECT_EQ(texts[2].stop, StopReason::kMaxTokens);
  EXPECT_EQ(texts[2].tokens, tokens({.max_new_tokens = 9}, {{{3}, 2}})[0]) << "full ones beside it disturb nothing";
  EXPECT_EQ(texts[1].tokens, tokens({.max_new_tokens = 9, .cache = false}, {{long_one, 1}})[0]);
}

TEST_F(Generator, StopsWhereItIsToldTo) {
  const auto whole = tokens({.max_new_tokens = 12}, prompts_);
  const auto texts =
      run({.max_new_tokens = 12, .is_enough = [](std::span<const int> text) { return text.size() == 5; }}, prompts_);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[i].tokens, std::vector<int>(whole[i].begin(), whole[i].begin() + 5));
    EXPECT_EQ(texts[i].stop, StopReason::kStopText);
  }
}

TEST_F(Generator, ChoosesAmongTheTokensThatThereAre) {
  for (const double temperature : {0.0, 3.0})
    for (const auto& text :
         tokens({.max_new_tokens = 15, .vocabulary = 4, .sampling = {.temperature = temperature}}, prompts_))
      for (const int token : text) EXPECT_LT(token, 4);
}

// So strong a penalty that no token comes twice.
TEST_F(Generator, PenaltyKeepsTokensFromComingAgain) {
  for (const auto& text :
       tokens({.max_new_tokens = 14, .sampling = {.repetition_penalty = 1e6}}, {{{3}, 0}, {{4}, 1}})) {
    std::vector<int> sorted = text;
    std::sort(sorted.begin(), sorted.end());
    EXPECT_EQ(std::unique(sorted.begin(), sorted.end()), sorted.end());
  }
}

TEST_F(Generator, CountsWhatItDid) {
  GenerationWork work;
  (void)run({.max_new_tokens = 6}, prompts_, 8, &work);
  (void)run({.max_new_tokens = 6}, {prompts_[1]}, 8, &work);
  EXPECT_EQ(work.prompt_tokens, 14 + 1);
  EXPECT_EQ(work.new_tokens, 18 + 6);
  EXPECT_EQ(work.step_tokens, 15 + 5);
  EXPECT_GT(work.prompt_seconds, 0.0);
  EXPECT_GT(work.step_seconds, 0.0);
}

TEST_F(Generator, NamesThePromptWhoseLogitsAreNoNumbers) {
  {
    const at::NoGradGuard no_grad;
    tiny_.model->parameters().tensor(tiny_.id_of("transformer.wte.weight"))[9].fill_(NAN);
  }
  for (const double temperature : {0.0, 1.0})
    EXPECT_THAT(
        test::error_of(ErrorKind::kDiverged,
                       [&] { (void)run({.vocabulary = 9, .sampling = {.temperature = temperature}}, prompts_, 32); }),
        HasSubstr("behind token 1 of prompt 2"));
}

TEST(SamplingDraw, DependsOnSeedPromptAndPositionAlone) {
  std::set<std::int64_t> seen;
  double sum = 0.0;
  for (std::uint64_t seed = 0; seed < 10; ++seed)
    for (std::uint64_t prompt = 0; prompt < 10; ++prompt)
      for (std::uint64_t position = 0; position < 10; ++position) {
        const std::int64_t draw = sampling_draw(seed, prompt, position);
        EXPECT_EQ(draw, sampling_draw(seed, prompt, position));
        EXPECT_TRUE(draw >= 0 && draw < std::int64_t{1} << 53);
        seen.insert(draw);
        sum += std::ldexp(static_cast<double>(draw), -53);
      }
  EXPECT_EQ(seen.size(), 1000U);
  EXPECT_NEAR(sum / 1000, 0.5, 0.03);  // three standard deviations
}

TEST(SharedRanges, AreThoseOfInputsThatHaveOneDynamicRange) {
  TinyModel tiny;
  const auto shares = [&](int bits) {
    tiny.build();
    return shares_ranges(*tiny.model, tiny.quant, PrecisionMap::uniform(tiny.config.linears(), bits, bits));
  };
  EXPECT_EQ(shares(8), "");
  tiny.quant.activation.granularity = Granularity::kTensor;
  EXPECT_EQ(shares(8), "h.0.attn.c_attn");
  EXPECT_EQ(shares(32), "");
  tiny.quant.activation.range = RangeSource::kCalibrated;
  EXPECT_EQ(shares(8), "");
}

}  // namespace
}  // namespace qat

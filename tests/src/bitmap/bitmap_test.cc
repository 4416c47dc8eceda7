// Maps as text: what each form means for a model, by lists worked out by hand, and what is refused.
#include "src/bitmap/bitmap.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

const BitmapShape kTwo{.blocks = 2, .n_embd = 16};
const BitmapShape kTwoAndHead{.blocks = 2, .n_embd = 16, .head_outputs = 29};
const BitmapShape kSix{.blocks = 6, .n_embd = 16};

Bitmap laid(const std::string& text, const BitmapShape& shape = kTwo) { return expand(parse_bitmap(text), shape); }

std::vector<int> weights(const std::string& text, const BitmapShape& shape = kTwo) {
  std::vector<int> bits;
  for (const LinearBits& linear : laid(text, shape).linears) bits.push_back(linear.weight);
  return bits;
}

std::string refusal(const std::string& text, const BitmapShape& shape = kTwo) {
  try {
    (void)laid(text, shape);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

TEST(Bitmap, OneWidthIsEveryLayersAndLeavesTheRestAsConfigured) {
  const Bitmap map = laid("4", kTwoAndHead);
  EXPECT_EQ(map.linears, std::vector<LinearBits>(9, {.weight = 4}));
  EXPECT_THAT(map.kv, ElementsAre(kBitsAsConfigured, kBitsAsConfigured));
  EXPECT_EQ(weights(" 0 "), std::vector<int>(8, 32));
  EXPECT_EQ(weights("32"), std::vector<int>(8, 32));
  EXPECT_EQ(weights("18"), std::vector<int>(8, 18));
}

struct Named {
  const char* text;
  int weight, activation, kv;
};

class NamedConfiguration : public ::testing::TestWithParam<Named> {};

TEST_P(NamedConfiguration, SetsAllThreeWidthsOfEveryLayerAndBlock) {
  const Named& p = GetParam();
  const Bitmap map = laid(p.text, kTwoAndHead);
  EXPECT_EQ(map.linears, std::vector<LinearBits>(9, {p.weight, p.activation}));
  EXPECT_EQ(map.kv, std::vector<int>(2, p.kv));
  EXPECT_TRUE(is_named_configuration(p.text));
}

INSTANTIATE_TEST_SUITE_P(Thirteen, NamedConfiguration,
                         ::testing::Values(Named{"FP32", 32, 32, 32}, Named{"FP16", 16, 16, 16}, Named{"INT8", 8, 8, 8},
                                           Named{"INT6", 6, 6, 6}, Named{"INT4", 4, 4, 4}, Named{"INT2", 2, 2, 2},
                                           Named{"W4A8KV8", 4, 8, 8}, Named{"W4A8KV4", 4, 8, 4},
                                           Named{"W4A16KV16", 4, 16, 16}, Named{"W8A8KV4", 8, 8, 4},
                                           Named{"W4A6KV16", 4, 6, 16}, Named{"W2A16KV16", 2, 16, 16},
                                           Named{"W3A8KV8", 3, 8, 8}));
INSTANTIATE_TEST_SUITE_P(Others, NamedConfiguration,
                         ::testing::Values(Named{"4-8-8", 4, 8, 8}, Named{"5 - 32 - 0", 5, 32, 32},
                                           Named{"w10a9kv7", 10, 9, 7}, Named{"int4", 4, 4, 4}));

TEST(Bitmap, AListHasAWidthForEachLayer) {
  EXPECT_THAT(weights("8,8,4,4, 2,0,32,3"), ElementsAre(8, 8, 4, 4, 2, 32, 32, 3));
  EXPECT_THAT(weights("8,8,4,4,2,2,2,2,6", kTwoAndHead), ElementsAre(8, 8, 4, 4, 2, 2, 2, 2, 6));
  EXPECT_THAT(refusal("8,8,4"), HasSubstr("must list 8 widths, 4 for each of 2 blocks, not 3"));
  EXPECT_THAT(refusal("8,8,4,4,2,2,2,2,6"), HasSubstr("must list 8 widths"));
  EXPECT_THAT(refusal("8,8,4,4,2,2,2,2", kTwoAndHead), HasSubstr("must list 9 widths, 4 for each of 2 blocks and one"));
  EXPECT_THAT(refusal("8,8,4,4,2,2,2,1"), HasSubstr("linear layer 7 must be 2..18, or 0 or 32"));
}

TEST(Bitmap, StripesGiveEvenLayersTheSecondWidth) {
  EXPECT_THAT(weights("stripe8&4"), ElementsAre(4, 8, 4, 8, 4, 8, 4, 8));
  EXPECT_THAT(weights("stripe4&2", kTwoAndHead), ElementsAre(2, 4, 2, 4, 2, 4, 2, 4, 2));
}

TEST(Bitmap, PatternsByBlock) {
  EXPECT_THAT(weights("alternating_8_4"), ElementsAre(8, 8, 4, 4, 4, 4, 8, 8));
  EXPECT_THAT(weights("attention_focused"), ElementsAre(8, 8, 4, 4, 8, 8, 4, 4));
  EXPECT_THAT(weights("mlp_focused", kTwoAndHead), ElementsAre(4, 4, 8, 8, 4, 4, 8, 8, 8));
  std::vector<int> progressive(24, 8);
  std::fill(progressive.begin() + 8, progressive.begin() + 16, 4);
  EXPECT_EQ(weights("progressive_4_8", kSix), progressive);
  EXPECT_THAT(refusal("progressive_4_8"), HasSubstr("needs more than 4 blocks"));
}

TEST(Bitmap, FieldsSetWhatTheyName) {
  const Bitmap map = laid("attn=8, mlp=4, act=6, kv=3");
  const std::vector<LinearBits> block = {{8, 6}, {8, 6}, {4, 6}, {4, 6}};
  std::vector<LinearBits> both = block;
  both.insert(both.end(), block.begin(), block.end());
  EXPECT_EQ(map.linears, both);
  EXPECT_THAT(map.kv, ElementsAre(3, 3));
  const Bitmap each = laid("attn=8,mlp=4;attn=2,mlp=3,kv=0");
  EXPECT_EQ(each.linears, (std::vector<LinearBits>{{8, 0}, {8, 0}, {4, 0}, {4, 0}, {2, 0}, {2, 0}, {3, 0}, {3, 0}}));
  EXPECT_THAT(each.kv, ElementsAre(kBitsAsConfigured, 32));
  EXPECT_EQ(laid(R"([{"attn": 8, "mlp": 4}, {"attn": 2, "mlp": 3, "kv": 32}])"), each);
  EXPECT_EQ(laid(R"({"attn": 8, "mlp": 4, "act": 6, "kv": 3})"), map);
  EXPECT_EQ(weights("attn=8,mlp=4,head=5", kTwoAndHead).back(), 5);
  EXPECT_EQ(weights("attn=8,mlp=4;attn=8,mlp=4;head=5", kTwoAndHead).back(), 5);
  EXPECT_EQ(weights(R"([{"attn":8,"mlp":4},{"attn":8,"mlp":4},{"head":5}])", kTwoAndHead).back(), 5);
}

TEST(Bitmap, FieldsThatCannotBeAppliedAreRefused) {
  EXPECT_THAT(refusal("attn=8,mlp=4;attn=8,mlp=4;attn=8,mlp=4"), HasSubstr("widths for 2 blocks, not for 3"));
  EXPECT_THAT(refusal("[{\"attn\":8,\"mlp\":4}]"), HasSubstr("widths for 2 blocks, not for 1"));
  EXPECT_THAT(refusal("attn=8,mpl=4"), HasSubstr("names \"mpl\": known are attn, mlp, act, kv, head; did you mean "
                                                 "\"mlp\"?"));
  EXPECT_THAT(refusal("attn=8"), HasSubstr("must name attn and mlp"));
  EXPECT_THAT(refusal("attn=8,mlp=4;mlp=4"), HasSubstr("must name attn and mlp for block 1"));
  EXPECT_THAT(refusal("attn=8,attn=8,mlp=4"), HasSubstr("twice"));
  EXPECT_THAT(refusal("attn=8,mlp=4,head=8"), HasSubstr("must not name head"));
  EXPECT_THAT(refusal("attn=8,mlp=4", kTwoAndHead), HasSubstr("must name head"));
  EXPECT_THAT(refusal("head=8;attn=8,mlp=4;attn=8,mlp=4", kTwoAndHead), HasSubstr("attn and mlp for block 0"));
  EXPECT_THAT(refusal("attn=8,mlp=4,kv=1"), HasSubstr("kv must be 2..18, or 0 or 32"));
  EXPECT_THAT(refusal("attn=8,mlp=4,act=x"), HasSubstr("act must be 2..18"));
  EXPECT_THAT(refusal("attn=8,mlp"), HasSubstr("\"mlp\" is not"));
  EXPECT_THAT(refusal("attn=8,mlp=4;"), HasSubstr("is not"));
  EXPECT_THAT(refusal("[8, 4]"), HasSubstr("must be an object"));
  EXPECT_THAT(refusal("[]"), HasSubstr("must name a block"));
  EXPECT_THAT(refusal("[{\"attn\":8.5,\"mlp\":4}]"), HasSubstr("attn must be 2..18"));
  EXPECT_THAT(refusal("[{\"attn\":-9223372036854775807,\"mlp\":4}]"), HasSubstr("attn must be 2..18"));
  EXPECT_THAT(refusal("[{\"attn\":8,"), HasSubstr("must be JSON"));
}

TEST(Bitmap, WhatIsNoMapIsRefusedWithWhatItMayMean) {
  EXPECT_THAT(refusal("strip8&4"), HasSubstr("did you mean \"stripe8&4\"?"));
  EXPECT_THAT(refusal("INT3"), HasSubstr("did you mean"));
  EXPECT_THAT(refusal("stripe8"), HasSubstr("must name two widths, as stripe8&4"));
  EXPECT_THAT(refusal("stripe8&x"), HasSubstr("not \"x\""));
  EXPECT_THAT(refusal("alternating_8_4_2"), HasSubstr("must name two widths"));
  EXPECT_THAT(refusal("1"), HasSubstr("2..18"));
  EXPECT_THAT(refusal("19"), HasSubstr("not 19"));
  EXPECT_THAT(refusal("99999999999999999999"), HasSubstr("2..18"));
  EXPECT_THAT(refusal("-4"), HasSubstr("must be a width"));
  EXPECT_THAT(refusal("4-8"), HasSubstr("three numbers"));
  EXPECT_THAT(refusal("4-8-8-8"), HasSubstr("three numbers"));
  EXPECT_THAT(refusal("W1A8KV8"), HasSubstr("the weights' width must be"));
  EXPECT_THAT(refusal("W4A8KV40"), HasSubstr("the keys' and values' width"));
  EXPECT_THAT(refusal("W4KV8A8"), HasSubstr("must be a width"));
  EXPECT_THAT(refusal(""), HasSubstr("must say widths"));
  EXPECT_THAT(refusal("  "), HasSubstr("must say widths"));
  EXPECT_FALSE(is_named_configuration("stripe8&4"));
  EXPECT_FALSE(is_named_configuration("4"));
}

TEST(Bitmap, ANameStandsBeforeAColon) {
  const BitmapText named = parse_bitmap("two-wide: 8,8,4,4,2,2,2,2"), bare = parse_bitmap("stripe8&4");
  EXPECT_EQ(named.name, "two-wide");
  EXPECT_EQ(named.text, "8,8,4,4,2,2,2,2");
  EXPECT_EQ(bare.name, "stripe8&4");
  EXPECT_THAT(refusal(": 4"), HasSubstr("must have a name"));
  EXPECT_THAT(refusal("a b: 4"), HasSubstr("must have a name"));
  EXPECT_THAT(refusal("4: 4"), HasSubstr("not a number alone"));
  EXPECT_THAT(refusal("x:"), HasSubstr("must say widths"));
}

TEST(Bitmap, KnowsItsWeightsWidths) {
  const auto widths = [](const std::string& text) { return weight_widths(parse_bitmap(text)); };
  EXPECT_THAT(widths("stripe8&4"), ElementsAre(4, 8));
  EXPECT_THAT(widths("8,8,4,4,2,0,32,3"), ElementsAre(2, 3, 4, 8));
  EXPECT_THAT(widths("W4A8KV8"), ElementsAre(4));
  EXPECT_THAT(widths("FP32"), IsEmpty());
  EXPECT_THAT(widths("attn=8,mlp=6,head=5"), ElementsAre(5, 6, 8));
}

TEST(Bitmap, TheSameWidthsAreTheSameTextHoweverTheyAreWritten) {
  const auto text = [](const std::string& map, const BitmapShape& shape = kTwo) {
    return canonical_text(laid(map, shape));
  };
  EXPECT_EQ(text("4"), "8x4");
  EXPECT_EQ(text("mine: 4,4,4,4,4,4,4,4"), "8x4");
  EXPECT_EQ(text("stripe8&4"), "1x4,1x8,1x4,1x8,1x4,1x8,1x4,1x8");
  EXPECT_EQ(text("attn=8,mlp=4"), "2x8,2x4,2x8,2x4");
  EXPECT_EQ(text("attention_focused"), text("attn=8,mlp=4"));
  EXPECT_EQ(text("W4A8KV8"), "8x4 act 8x8 kv 2x8");
  EXPECT_EQ(text("attn=4,mlp=4,act=8;attn=4,mlp=4,kv=6"), "8x4 act 4x8,4x0 kv 1x0,1x6");
  EXPECT_EQ(text("4", kTwoAndHead), "9x4");
}

// c_attn 3, attn.c_proj 1, c_fc 4, mlp.c_proj 4 of twelve.
TEST(Bitmap, CountsAsTheWidthOfMostProductsTiesToTheLarger) {
  const auto nominal = [](const std::string& text, const BitmapShape& shape = kTwo) {
    return nominal_width(laid(text, shape), shape);
  };
  EXPECT_EQ(nominal("stripe8&4"), 4);          // 7 of 12 at 4
  EXPECT_EQ(nominal("attention_focused"), 4);  // 8 of 12
  EXPECT_EQ(nominal("alternating_8_4"), 8);    // 12 of 24 each
  EXPECT_EQ(nominal("8,8,8,4,8,8,8,4"), 8);
  EXPECT_EQ(nominal("FP32"), 32);
  EXPECT_EQ(nominal("4,4,4,4,4,4,4,4,8", {.blocks = 2, .n_embd = 16, .head_outputs = 1000}), 8);
  EXPECT_DOUBLE_EQ(mean_width(laid("stripe8&4"), kTwo), (7.0 * 4 + 5.0 * 8) / 12);
  EXPECT_EQ(kTwoAndHead.macs(8), 16 * 29);
  EXPECT_EQ(kTwoAndHead.macs(4), 3 * 16 * 16);
}

}  // namespace
}  // namespace qat

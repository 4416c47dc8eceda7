#include "src/model/lora_config.h"

#include <gtest/gtest.h>

namespace qat {
namespace {

TEST(AdapterShape, IsThatOfAllWidthsUnlessAWidthHasItsOwn) {
  LoraConfig lora{.rank = 16, .alpha = 32.0, .quantize = false, .slots = Slots::kPerWidth};
  lora.per_width = {{.bits = 2, .rank = 64, .quantize = true}, {.bits = 8, .alpha = 4.0, .input = AdapterInput::kRaw}};
  const AdapterShape two = adapter_shape(lora, 2, 768), eight = adapter_shape(lora, 8, 768);
  EXPECT_EQ(two.rank, 64);
  EXPECT_EQ(two.scaling(), 0.5);
  EXPECT_TRUE(two.quantize && two.input == AdapterInput::kQuantized);
  EXPECT_EQ(eight.rank, 16);
  EXPECT_EQ(eight.scaling(), 0.25);
  EXPECT_TRUE(!eight.quantize && eight.input == AdapterInput::kRaw);
  EXPECT_EQ(adapter_shape(lora, 4, 768).rank, 16);
  EXPECT_EQ(adapter_shape(lora, 0, 768).rank, 16);
}

// The ranks 4, 8 and 16 of wide layers, and what small ones leave of them.
TEST(AdapterShape, ByWidthFollowsFromWidthAndInputs) {
  const LoraConfig lora{.rank = 99, .alpha = 99.0, .slots = Slots::kPerWidth, .rank_rule = RankRule::kByWidth};
  struct Case {
    int bits;
    std::int64_t in, rank;
    double alpha;
  };
  for (const Case& one : {Case{2, 768, 4, 4.0}, Case{4, 3072, 4, 8.0}, Case{5, 768, 8, 20.0}, Case{8, 768, 8, 32.0},
                          Case{9, 768, 16, 72.0}, Case{16, 768, 16, 128.0}, Case{3, 256, 2, 3.0}, Case{3, 64, 1, 1.0},
                          Case{6, 64, 2, 6.0}, Case{12, 64, 4, 24.0}, Case{12, 256, 8, 48.0}}) {
    const AdapterShape shape = adapter_shape(lora, one.bits, one.in);
    EXPECT_EQ(shape.rank, one.rank) << one.bits << " bits of " << one.in;
    EXPECT_EQ(shape.alpha, one.alpha) << one.bits << " bits of " << one.in;
  }
  LoraConfig mixed = lora;
  mixed.per_width = {{.bits = 8, .rank = 3}};
  EXPECT_EQ(adapter_shape(mixed, 8, 768).rank, 3);
  EXPECT_EQ(adapter_shape(mixed, 8, 768).alpha, 12.0);
}

TEST(HasAdapters, LooksAtTheWidthsThatAreAskedFor) {
  LoraConfig lora{.rank = 0, .slots = Slots::kPerWidth};
  lora.per_width = {{.bits = 2, .rank = 8}};
  EXPECT_TRUE(has_adapters(lora, {2, 4}));
  EXPECT_FALSE(has_adapters(lora, {4, 8, 32}));
  lora.rank = 4;
  EXPECT_FALSE(has_adapters(lora, {32}));
  lora.slots = Slots::kShared;
  EXPECT_TRUE(has_adapters(lora, {}));
}

}  // namespace
}  // namespace qat

#include "src/quant/precision_map.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/common/error.h"

namespace qat {
namespace {

const std::vector<std::string> kNames = {"h.0.attn.c_attn", "h.0.attn.c_proj", "h.0.mlp.c_fc",
                                         "h.0.mlp.c_proj",  "h.1.attn.c_attn", "h.1.attn.c_proj",
                                         "h.1.mlp.c_fc",    "h.1.mlp.c_proj",  "lm_head"};

// A block's layers are at each place what a pass at the block's width has there.
TEST(PrecisionMap, OfBlocksIsForEachBlockThePassAtItsWidth) {
  QuantConfig quant;
  quant.activation_bits = 7, quant.kv_bits = 5;
  quant.overrides = {{.layers = "h.*.mlp.*", .weight_bits = 6}, {.layers = "lm_head", .gradient_bits = 4}};
  const std::vector<int> blocks = {3, 32, 8};
  const PrecisionMap map =
      PrecisionMap::of_blocks(kNames, blocks, scheduled_precision(quant, 3, 8), /*gradient_bits=*/8, quant);
  EXPECT_EQ(map.nominal(), scheduled_precision(quant, 3, 8));
  for (std::int64_t i = 0; i < map.size(); ++i) {
    const int bits = blocks[static_cast<std::size_t>(i / kLinearsPerBlock)];
    const PrecisionMap uniform = PrecisionMap::make(kNames, scheduled_precision(quant, bits, 8), quant.overrides, 5);
    EXPECT_EQ(map.at(i), uniform.at(i)) << i;
  }
  EXPECT_EQ(map.kv(0).bits(), 5);
  EXPECT_TRUE(map.kv(1).is_full());
  EXPECT_TRUE(map.uses_weight_bits(6));
  EXPECT_FALSE(map.uses_weight_bits(4));
  EXPECT_THROW((void)PrecisionMap::of_blocks(kNames, {8, 8}, {}, 8, quant), Error);
}

TEST(PrecisionMap, OfBlocksAllAlikeIsThePassAtThatWidth) {
  const QuantConfig quant;
  const LayerPrecision four = scheduled_precision(quant, 4, 8);
  const PrecisionMap map = PrecisionMap::of_blocks(kNames, {4, 4, 4}, four, 8, quant);
  for (std::int64_t i = 0; i < map.size(); ++i) EXPECT_EQ(map.at(i), four);
}

}  // namespace
}  // namespace qat

// Passes in which each layer, and each block's keys and values, have widths of their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;
using ::testing::ElementsAre;

PrecisionMap map_of(const TinyModel& tiny, const std::string& text, int gradient_bits = 8) {
  return PrecisionMap::of_bitmap(tiny.model->linear_names(), parse_bitmap(text), tiny.config.bitmap_shape(), tiny.quant,
                                 gradient_bits);
}

at::Tensor logits(const TinyModel& tiny, const PrecisionMap& map) {
  const at::NoGradGuard no_grad;
  const ForwardContext context = tiny.context(map);
  return tiny.model->logits(tiny.model->hidden(tiny.tokens(2, 9), context), context);
}

TEST(BitmapPass, AMapHasItsOwnWidthsAndTheConfiguredOnesWhereItSaysNone) {
  TinyModel tiny;
  tiny.quant.kv_bits = 6;
  tiny.quant.overrides = {{.layers = "h.1.*", .gradient_bits = 5}};
  tiny.build();
  const PrecisionMap map = map_of(tiny, "attn=8,mlp=4,kv=3;attn=32,mlp=2,act=7");
  EXPECT_EQ(map.at(0), (LayerPrecision{BitWidth(8), BitWidth(8), BitWidth(8)}));
  EXPECT_EQ(map.at(3), (LayerPrecision{BitWidth(4), BitWidth(4), BitWidth(8)}));
  EXPECT_EQ(map.at(4), (LayerPrecision{BitWidth(32), BitWidth(7), BitWidth(5)}));
  EXPECT_EQ(map.at(6), (LayerPrecision{BitWidth(2), BitWidth(7), BitWidth(5)}));
  EXPECT_EQ(map.kv(0), BitWidth(3));
  EXPECT_EQ(map.kv(1), BitWidth(6));
  EXPECT_EQ(map.nominal(), (LayerPrecision{BitWidth(4), BitWidth(4), BitWidth(8)}));  // a tie with 2, of 8 each
  const PrecisionMap full = map_of(tiny, "FP32"), plain = map_of(tiny, "32");
  for (const PrecisionMap* one : {&full, &plain}) {
    EXPECT_EQ(one->at(5), LayerPrecision());
    EXPECT_TRUE(one->kv(1).is_full());
    EXPECT_EQ(one->nominal(), LayerPrecision());
  }
  // Keys and values that a map names are quantized whatever the weights are.
  EXPECT_EQ(map_of(tiny, "32-32-4").kv(0), BitWidth(4));
  tiny.quant.activation_bits = 9;
  EXPECT_EQ(map_of(tiny, "stripe8&4").at(1).activation, BitWidth(9));
  EXPECT_EQ(map_of(tiny, "W4A8KV8").at(1).activation, BitWidth(8));
}

TEST(BitmapPass, UniformMapsComputeTheBitsOfTheWidthsThatTheyAre) {
  TinyModel tiny;
  tiny.quant.kv_bits = 5;
  tiny.build();
  tiny.randomize();
  for (const int bits : {2, 4, 8, 12, 32}) {
    const PrecisionMap width = PrecisionMap::make(tiny.model->linear_names(), scheduled_precision(tiny.quant, bits, 8),
                                                  tiny.quant.overrides, tiny.quant.kv_bits);
    EXPECT_TRUE(at::equal(logits(tiny, map_of(tiny, std::to_string(bits))), logits(tiny, width))) << bits;
    EXPECT_EQ(tiny.loss(tiny.context(map_of(tiny, std::to_string(bits)))), tiny.loss(tiny.context(width))) << bits;
  }
}

// Every width that a map names changes what is computed, and every configuration trains.
TEST(BitmapPass, EveryFieldCounts) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const at::Tensor base = logits(tiny, map_of(tiny, "attn=8,mlp=8,act=8,kv=8"));
  for (const char* other : {"attn=7,mlp=8,act=8,kv=8", "attn=8,mlp=7,act=8,kv=8", "attn=8,mlp=8,act=7,kv=8",
                            "attn=8,mlp=8,act=8,kv=7", "attn=8,mlp=8,act=8,kv=8;attn=8,mlp=8,act=8,kv=4",
                            "attn=8,mlp=8,act=8,kv=4;attn=8,mlp=8,act=8,kv=8", "W8A8KV16", "W32A8KV8", "W8A32KV8"})
    EXPECT_FALSE(at::equal(logits(tiny, map_of(tiny, other)), base)) << other;
  for (const char* name : {"FP32", "FP16", "INT8", "INT6", "INT4", "INT2", "W4A8KV8", "W4A8KV4", "W4A16KV16", "W8A8KV4",
                           "W4A6KV16", "W2A16KV16", "W3A8KV8", "W32A8KV8", "W8A32KV4"}) {
    const double loss = tiny.backward(tiny.context(map_of(tiny, name)));
    EXPECT_TRUE(std::isfinite(loss)) << name;
    for (const char* parameter : {"transformer.h.0.attn.c_attn.weight", "transformer.h.1.mlp.c_proj.weight"})
      EXPECT_TRUE(at::isfinite(tiny.grad(parameter)).all().item<bool>()) << name << " " << parameter;
  }
}

// A norm has the width of the layer behind it, ln_f what the map counts as; other widths' parameters are left alone.
TEST(BitmapPass, WidthsOwnParametersAreThoseOfTheLayers) {
  TinyModel tiny;
  tiny.quant.widths = {2, 4, 8, 32};
  tiny.lora.slots = tiny.config.norm_slots = Slots::kPerWidth;
  tiny.quant.maps = {"stripe8&6"};
  EXPECT_THAT(quantized_weight_widths(tiny.quant), ElementsAre(2, 4, 6, 8));
  tiny.build();
  tiny.randomize();
  tiny.backward(tiny.context(map_of(tiny, "stripe8&6")));
  const auto trained = [&](const std::string& name) {
    const at::Tensor gradient = tiny.grad("transformer." + name);
    return gradient.defined() && gradient.abs().max().item<double>() > 0.0;
  };
  EXPECT_TRUE(trained("h.0.attn.c_attn.lora_A.w6.weight"));
  EXPECT_FALSE(trained("h.0.attn.c_attn.lora_A.w8.weight"));
  EXPECT_TRUE(trained("h.0.attn.c_proj.lora_A.w8.weight"));
  EXPECT_TRUE(trained("h.0.ln_1.w6.weight"));
  EXPECT_TRUE(trained("h.1.ln_2.w6.weight"));
  EXPECT_FALSE(trained("h.1.ln_2.w8.weight"));
  EXPECT_TRUE(trained("ln_f.w6.weight"));
  EXPECT_FALSE(trained("ln_f.w8.weight"));
  EXPECT_FALSE(trained("h.0.attn.c_attn.lora_A.w4.weight"));
}

}  // namespace
}  // namespace qat

#include "src/train/model_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(ProductPaths, OneLineForTheWidthsThatTakeTheSame) {
  test::TinyModel spec;
  spec.quant.widths = {4, 8, 10, 6, 32};
  const Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/8);
  EXPECT_THAT(product_paths(model, spec.quant, {}),
              ElementsAre("linear layers at 4, 8, 6 bits: int8 codes, int32 sums",
                          StartsWith("linear layers at 10 bits: quantized values in fp32"),
                          "linear layers at 32 bits: unquantized fp32"));
  spec.quant.activation_bits = 16;  // wider than codes, at every width
  EXPECT_THAT(product_paths(model, spec.quant, {}), ElementsAre(HasSubstr("4, 8, 10, 6 bits"), HasSubstr("32 bits")));
}

TEST(LayerWork, GradientsOfAQuantizedHeadCountUnrounded) {
  test::TinyModel spec;
  spec.config.quantize_lm_head = true;
  const Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/8);
  const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 4, 4, 8);
  const std::vector<LayerWork> work = layer_work(model, spec.lora, map, /*tokens=*/10, /*sequence_length=*/5);
  // Each layer counts as itself and the two factors of its adapter; attention comes last.
  const LayerWork& first = work.front();
  const LayerWork& head = work.at(work.size() - 4);
  EXPECT_EQ(first.bits.gradient, 8);
  EXPECT_EQ(head.macs, 10.0 * 16 * 29);
  EXPECT_EQ(head.bits.weight, 4);
  EXPECT_EQ(head.bits.gradient, BitWidth::kFull);
}

}  // namespace
}  // namespace qat

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

// A scale and a zero point a group, once, however they are kept; what other widths train is no part of the model.
TEST(ModelSize, LearnedRangesCountAsTheScalesThatTheyAre) {
  test::TinyModel spec;
  spec.lora.rank = 0;
  spec.quant.weight = {.method = QuantizerKind::kGroupwise, .granularity = Granularity::kChannel, .group_size = 8};
  const Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/8);
  const SizeReport size = model_size(model, spec.quant, PrecisionMap::uniform(8, 4, 4));
  const std::int64_t weights = 2 * 12 * 16 * 16;
  EXPECT_EQ(size.linear_bytes, weights / 2 + weights / 8 * 2 * 4);
  test::TinyModel plain;
  plain.lora.rank = 0;
  plain.build();
  EXPECT_EQ(size.other_bytes, model_size(*plain.model, plain.quant, PrecisionMap::uniform(8, 4, 4)).other_bytes);
}

TEST(LayerWork, GradientsOfAQuantizedHeadCountUnrounded) {
  test::TinyModel spec;
  spec.config.quantize_lm_head = true;
  const Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/8);
  const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 4, 4, 8);
  const std::vector<LayerWork> work = layer_work(model, map, /*tokens=*/10, /*sequence_length=*/5);
  // Each layer counts as itself and the two factors of its adapter; the head comes last.
  const LayerWork& first = work.front();
  const LayerWork& head = work.at(work.size() - 3);
  EXPECT_EQ(first.bits.gradient, 8);
  EXPECT_EQ(head.macs, 10.0 * 16 * 29);
  EXPECT_EQ(head.bits.weight, 4);
  EXPECT_EQ(head.bits.gradient, BitWidth::kFull);
}

TEST(LayerWork, ATeacherHasNoBackwardAndItsHeadCountsWhereItIsUsed) {
  test::TinyModel spec;
  const Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/8);
  const std::vector<PrecisionMap> maps = {PrecisionMap::uniform(spec.config.linears(), 32, 32),
                                          PrecisionMap::uniform(spec.config.linears(), 4, 4, 8)};
  const dist::UpdatePlan update{
      .passes = {{.map = 0, .trains = false}, {.map = 1, .loss = {.distillation = 1.0}, .teachers = {0}}}};
  const auto cost = [&](std::size_t pass) {
    return step_bitops(pass_work(model, update, pass, maps, /*tokens=*/10, /*sequence_length=*/5));
  };
  const double head = 10.0 * 16 * 29 * 32 * 32;
  const Bitops full = step_bitops(layer_work(model, maps[0], 10, 5));
  EXPECT_EQ(cost(0).forward, full.forward - head);
  EXPECT_EQ(cost(0).total(), cost(0).forward);
  const Bitops four = step_bitops(layer_work(model, maps[1], 10, 5));
  EXPECT_EQ(cost(1).forward, four.forward + head);
  EXPECT_EQ(cost(1).input_gradient, four.input_gradient);
}

// Adapters are off at 32 bits: a run's ratio and the final table's are relative to the same model without them.
TEST(LayerWork, TheReferenceIsAStepAt32BitsWithoutAdapters) {
  test::TinyModel spec;
  spec.config.quantize_lm_head = true;
  spec.quant.overrides = {{.layers = "h.0.*", .weight_bits = 32, .activation_bits = 32}};
  const Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/8);
  const auto work_at = [&](int bits) {
    return layer_work(model, evaluation_precision(model, spec.quant, bits), /*tokens=*/10,
                      /*sequence_length=*/5);
  };
  BitopsTotal quantized, full;
  quantized.add(work_at(4));
  full.add(work_at(32));
  EXPECT_EQ(quantized.at_full, full.spent);
  EXPECT_EQ(full.ratio(), 1.0);
  EXPECT_EQ(bitops_at_full(model, /*tokens=*/10, /*sequence_length=*/5), full.spent);

  double forward = 0.0, forward_full = 0.0;
  for (const LayerWork& one : work_at(4)) forward += layer_bitops(one).forward;
  for (const LayerWork& one : work_at(4)) forward_full += one.at_full ? layer_bitops({one.macs, {}}).forward : 0.0;
  const std::vector<WidthResult> results =
      width_results(model, spec.quant, {{.at = 4, .score = {}}}, /*sequence_length=*/5);
  EXPECT_DOUBLE_EQ(results[0].forward_bitops_ratio, forward / forward_full);
}

// Each layer's own adapter and each norm's own slot, not those of every width in the map.
TEST(ModelSize, AMapsModelHasWhatItsLayersUse) {
  test::TinyModel spec;
  spec.quant.widths = {4, 8, 32};
  spec.lora.slots = spec.config.norm_slots = Slots::kPerWidth;
  spec.build();
  const auto size = [&](const EvaluatedAt& at) {
    return model_size(*spec.model, spec.quant, evaluation_precision(*spec.model, spec.quant, at));
  };
  const SizeReport four = size(4), eight = size(8), stripes = size(EvaluatedAt(std::string("stripe8&4"))),
                   same = size(EvaluatedAt(std::string("8")));
  EXPECT_EQ(same.total_bytes(), eight.total_bytes());
  EXPECT_EQ(stripes.other_bytes, eight.other_bytes);
  EXPECT_EQ(size(32).other_bytes, eight.other_bytes);
  EXPECT_GT(stripes.adapter_bytes, four.adapter_bytes);
  EXPECT_LT(stripes.adapter_bytes, eight.adapter_bytes);
  EXPECT_LT(stripes.linear_bytes, eight.linear_bytes);
}

}  // namespace
}  // namespace qat

// What adapters of single widths cost and take.
#include <gtest/gtest.h>

#include "src/eval/width_eval.h"
#include "src/train/model_report.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

TEST(AdapterWork, IsThatOfItsWidthsOwnShape) {
  test::TinyModel spec;
  spec.quant.widths = {4, 8, 6};
  spec.lora.slots = Slots::kPerWidth;
  spec.lora.per_width = {{.bits = 4, .rank = 6, .quantize = false, .input = AdapterInput::kRaw},
                         {.bits = 6, .rank = 0}};
  const Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/8);
  const auto work_at = [&](int bits) {
    return layer_work(model, PrecisionMap::uniform(spec.config.linears(), bits, bits, 8), /*tokens=*/10,
                      /*sequence_length=*/5);
  };
  const LayerWork raw = work_at(4).at(1), shared = work_at(8).at(1);  // x A^T of the first layer
  EXPECT_EQ(raw.macs, 10.0 * 6 * 16);
  EXPECT_EQ(raw.bits.weight, BitWidth::kFull);
  EXPECT_EQ(raw.bits.activation, BitWidth::kFull);
  EXPECT_EQ(shared.macs, 10.0 * 4 * 16);
  EXPECT_EQ(shared.bits.weight, 8);
  EXPECT_EQ(shared.bits.activation, 8);
  EXPECT_EQ(work_at(4).size(), work_at(8).size());
  EXPECT_EQ(work_at(6).size(), work_at(8).size() - 2 * 8);  // no adapters, of 8 layers
  // What is stored, too: fp32 adapters of rank 6, quantized ones of rank 4, none.
  const auto adapter_bytes = [&](int bits) {
    return model_size(model, spec.quant, evaluation_precision(model, spec.quant, bits)).adapter_bytes;
  };
  const std::int64_t ends = 2 * (16 * (4 + 2 + 5 + 5));  // inputs and outputs of all layers
  EXPECT_EQ(adapter_bytes(4), 4 * 6 * ends);
  EXPECT_GT(adapter_bytes(8), 4 * ends);
  EXPECT_EQ(adapter_bytes(6), 0);
}

}  // namespace
}  // namespace qat

#include "src/report/model_size.h"

#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "kernels/common/error.h"

namespace qat {
namespace {

using Role = TensorSize::Role;

struct Gpt2 {
  std::int64_t layers = 12, width = 768, positions = 1024, vocabulary = 50257;
  std::int64_t rank = 0;
  bool untied_head = false, head_adapter = false;
};

// The tensors of GPT-2 with linear weights as [out, in]; `bits` gives the width of "attn" or "mlp".
std::vector<TensorSize> gpt2_tensors(const Gpt2& model, const std::function<int(const std::string&)>& bits) {
  const std::int64_t d = model.width;
  std::vector<TensorSize> tensors = {{"wte", model.vocabulary, d}, {"wpe", model.positions, d}};
  const auto add_adapter = [&](const std::string& name, std::int64_t out, std::int64_t in, int width) {
    if (model.rank == 0) return;
    tensors.push_back({name + ".lora_a", model.rank, in, Role::kAdapter, width});
    tensors.push_back({name + ".lora_b", out, model.rank, Role::kAdapter, width});
  };
  for (std::int64_t layer = 0; layer < model.layers; ++layer) {
    const std::string block = "h." + std::to_string(layer) + ".";
    const auto add_linear = [&](const std::string& part, const std::string& name, std::int64_t out, std::int64_t in) {
      const std::string full = block + part + "." + name;
      tensors.push_back({full + ".weight", out, in, Role::kLinear, bits(part)});
      tensors.push_back({full + ".bias", 1, out});
      add_adapter(full, out, in, bits(part));
    };
    add_linear("attn", "c_attn", 3 * d, d);
    add_linear("attn", "c_proj", d, d);
    add_linear("mlp", "c_fc", 4 * d, d);
    add_linear("mlp", "c_proj", d, 4 * d);
    for (const char* norm : {"ln_1", "ln_2"}) {
      tensors.push_back({block + norm + ".weight", 1, d});
      tensors.push_back({block + norm + ".bias", 1, d});
    }
  }
  tensors.push_back({"ln_f.weight", 1, d});
  tensors.push_back({"ln_f.bias", 1, d});
  if (model.untied_head) tensors.push_back({"lm_head.weight", model.vocabulary, d, Role::kLinear, bits("head")});
  if (model.head_adapter) add_adapter("lm_head", model.vocabulary, d, bits("head"));
  return tensors;
}

std::function<int(const std::string&)> uniform(int bits) {
  return [bits](const std::string&) { return bits; };
}

TEST(SizeReport, Gpt2InFp32Is475MiB) {
  const SizeReport size = size_report(gpt2_tensors({}, uniform(32)));
  EXPECT_EQ(size.total_bytes(), 124439808 * 4);
  EXPECT_NEAR(static_cast<double>(size.total_bytes()) / (1 << 20), 474.70, 0.005);
  EXPECT_EQ(size.compression(), 1.0);
  EXPECT_EQ(size.effective_bits, 32.0);
}

TEST(SizeReport, CountsPackedCodesScalesAndTheRestApart) {
  const SizeReport size = size_report(gpt2_tensors({}, uniform(4)));
  const std::int64_t linear = 12 * 12 * 768 * 768, rows = 12 * 9 * 768;
  EXPECT_EQ(size.linear_bytes, linear / 2 + rows * 4);
  EXPECT_EQ(size.other_bytes, (124439808 - linear) * 4);
  EXPECT_EQ(size.full_bytes, 124439808 * 4);
  EXPECT_DOUBLE_EQ(size.compression(), 124439808.0 * 4 / static_cast<double>(size.linear_bytes + size.other_bytes));
}

TEST(SizeReport, RowsOfOddWidthsBeginAtAByte) {
  const std::vector<TensorSize> tensors = {{"w", 5, 7, Role::kLinear, 3}};  // 21 bits a row: 3 bytes
  EXPECT_EQ(size_report(tensors, {.scale_per_row = false}).total_bytes(), 5 * 3 + 4);
  const std::vector<TensorSize> affine = {{"w", 5, 7, Role::kLinear, 3, {.numbers_per_scale = 2}}};
  EXPECT_EQ(size_report(affine).total_bytes(), 5 * 3 + 5 * 8);
  EXPECT_EQ(size_report(tensors, {.unquantized_bytes = 2}).full_bytes, 5 * 7 * 2);
}

TEST(SizeReport, TheSeedLogCodebookCountsItsExtraBit) {
  std::vector<TensorSize> tensors = {{"w", 1, 8, Role::kLinear, 3, {.numbers_per_scale = 2, .extra_bits = 1}}};
  const SizeReport size = size_report(tensors);
  EXPECT_EQ(size.total_bytes(), 4 + 8);
  EXPECT_EQ(size.effective_bits, 4.0);
  // Each tensor as its own quantizer has it.
  tensors.push_back({"v", 1, 8, Role::kLinear, 3});
  EXPECT_EQ(size_report(tensors).total_bytes(), 4 + 8 + 3 + 4);
  EXPECT_EQ(size_report(tensors).effective_bits, 3.5);
}

TEST(SizeReport, LoraOfRank64HasItsPublishedSize) {
  const SizeReport size = size_report(gpt2_tensors({.rank = 64}, uniform(8)));
  const std::int64_t a_rows = 12 * 4 * 64, b_rows = 12 * 9 * 768;
  EXPECT_EQ(size.adapter_bytes, 9437184 + (a_rows + b_rows) * 4);
}

TEST(SizeReport, AdaptersAreOffAtFullPrecision) {
  EXPECT_EQ(size_report(gpt2_tensors({.rank = 64}, uniform(32))).adapter_bytes, 0);
}

TEST(SizeReport, AdaptersThatStayUnquantizedCountInFull) {
  std::vector<TensorSize> tensors = gpt2_tensors({.rank = 16, .untied_head = true, .head_adapter = true}, uniform(8));
  std::int64_t elements = 0;
  for (TensorSize& tensor : tensors) {
    if (tensor.role == Role::kAdapter) tensor.bits = 32;
    elements += tensor.rows * tensor.cols;
  }
  EXPECT_EQ(elements, 166212880);  // CPT's model: an untied head, and rank 16 everywhere
  EXPECT_EQ(size_report(tensors).adapter_bytes, (3214096 - 25 * 2 * 768) * 4);  // of what it trains, all but the norms
}

TEST(SizeReport, AnUntiedHeadAndAllAdaptersAreCountedAsTheyAre) {
  // 684.94 MiB: GPT-2, a second copy of the embedding, and 112 adapters of 147,456 parameters.
  std::vector<TensorSize> tensors = gpt2_tensors({.untied_head = true}, uniform(32));
  for (int i = 0; i < 112; ++i) tensors.push_back({"adapter." + std::to_string(i), 1, 147456});
  EXPECT_NEAR(static_cast<double>(size_report(tensors).total_bytes()) / (1 << 20), 684.94, 0.005);
}

TEST(SizeReport, EffectiveBitsAreWeightedByParameters) {
  const SizeReport size = size_report(gpt2_tensors({}, [](const std::string& part) { return part == "attn" ? 8 : 4; }));
  EXPECT_NEAR(size.effective_bits, 16.0 / 3.0, 1e-12);  // attention has 4 d^2 weights, the MLP 8 d^2
  EXPECT_EQ(size.mean_bits, 6.0);
}

TEST(SizeReport, ATensorListedTwiceIsABug) {
  const std::vector<TensorSize> tensors = {{"wte", 2, 2}, {"wte", 2, 2}};
  EXPECT_THROW(size_report(tensors), Error);
}

TEST(KvCache, Gpt2At16BitsAnd2048Tokens) {
  const std::int64_t bytes = kv_cache_bytes(12, 768, 2048, 1, 16);
  EXPECT_NEAR(static_cast<double>(bytes) / (1 << 30), 0.0703, 5e-5);
}

}  // namespace
}  // namespace qat

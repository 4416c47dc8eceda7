// Adapters with zeros up to a rank that products take, and those that read the raw input.
#include "src/quant/prepared_linear.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

namespace qat {
namespace {

constexpr std::int64_t kTokens = 6, kIn = 16, kOut = 24, kRank = 3, kPadded = 8;

struct Layer {
  PreparedLinear linear;
  LinearOperand x;
};

// a: [r, in], b: [out, r], with zeros from kRank on if r is kPadded.
Layer layer(bool codes, bool raw, std::int64_t rank) {
  torch::manual_seed(2);
  const at::Tensor w = at::randn({kOut, kIn}), x = at::randn({kTokens, kIn});
  const auto filled = [&](const at::Tensor& t, int dim) {
    std::vector<std::int64_t> more = t.sizes().vec();
    more[static_cast<std::size_t>(dim)] = rank - kRank;
    return at::cat({t, at::zeros(more)}, dim);
  };
  const at::Tensor a = filled(at::randn({kRank, kIn}), 0), b = filled(at::randn({kOut, kRank}), 1);
  const Quantizer rows("layer", "any", {.granularity = Granularity::kChannel});
  const BitWidth width(8);
  Layer out;
  out.linear.one = at::ones({1});
  out.linear.bias = at::randn({kOut});
  if (codes) {
    out.linear.weight.codes = rows.encode(w, width, /*with_transposed=*/true);
    out.x.codes = rows.encode(x, width, /*with_transposed=*/true);
  } else {
    out.linear.weight.values = rows.fake_quant(w, width);
    out.x.values = rows.fake_quant(x, width);
  }
  if (raw) out.x.raw = x;
  PreparedAdapter adapter;
  adapter.scaling = 0.5;
  adapter.rank = kRank;
  adapter.raw_input = raw;
  if (codes && !raw)
    adapter.a.codes = rows.encode(a, width, /*with_transposed=*/true);
  else
    adapter.a.values = rows.fake_quant(a, width);
  adapter.b = b * adapter.scaling;
  out.linear.adapter = adapter;
  return out;
}

struct Result {
  at::Tensor y;
  LinearGradients gradients;
};

Result run(const Layer& layer, const LinearPlaces& places = {}) {
  LinearSaved saved;
  Result out;
  out.y = linear_forward(layer.linear, layer.x, at::kFloat, &saved);
  torch::manual_seed(8);
  const at::Tensor g = at::randn({kTokens, kOut});
  const GradientRounding rounding{.width = BitWidth(8)};
  out.gradients = linear_backward(
      layer.linear, saved, {.parts = {g}},
      {.base = rounding, .lora_a = rounding, .lora_a_weight = rounding, .lora_b_weight = rounding}, {}, places);
  return out;
}

TEST(PreparedLinear, AnAdapterFilledUpWithZerosIsTheAdapter) {
  for (const bool codes : {true, false}) {
    for (const bool raw : {true, false}) {
      SCOPED_TRACE(std::string(codes ? "codes" : "values") + (raw ? ", raw input" : ""));
      const Result want = run(layer(codes, raw, kRank)), got = run(layer(codes, raw, kPadded));
      LinearPlaces places;
      places.at.lora_a = at::full({kRank, kIn}, 7.0), places.at.lora_b = at::full({kOut, kRank}, 7.0);
      const Result placed = run(layer(codes, raw, kPadded), places);
      EXPECT_TRUE(at::allclose(got.y, want.y, 1e-5, 1e-5));
      EXPECT_TRUE(at::allclose(got.gradients.input, want.gradients.input, 1e-4, 1e-5));
      EXPECT_TRUE(at::allclose(got.gradients.weight, want.gradients.weight, 1e-4, 1e-5));
      EXPECT_EQ(got.gradients.lora_a.sizes(), want.gradients.lora_a.sizes());
      EXPECT_EQ(got.gradients.lora_b.sizes(), want.gradients.lora_b.sizes());
      EXPECT_TRUE(at::allclose(got.gradients.lora_a, want.gradients.lora_a, 1e-4, 1e-5));
      EXPECT_TRUE(at::allclose(got.gradients.lora_b, want.gradients.lora_b, 1e-4, 1e-5));
      EXPECT_GT(want.gradients.lora_a.abs().max().item<double>(), 0.1);
      EXPECT_TRUE(at::equal(places.at.lora_a, got.gradients.lora_a));
      EXPECT_TRUE(at::equal(places.at.lora_b, got.gradients.lora_b));
      EXPECT_EQ(placed.gradients.lora_a.data_ptr(), places.at.lora_a.data_ptr());
    }
  }
}

// The output gradient of c_attn comes in three parts.
TEST(PreparedLinear, PartsOfTheOutputGradientAreTheirWhole) {
  for (const bool codes : {true, false}) {
    const Layer one = layer(codes, /*raw=*/true, kPadded);
    torch::manual_seed(8);
    const at::Tensor g = at::randn({kTokens, kOut});
    const auto gradients = [&](const std::vector<at::Tensor>& parts) {
      LinearSaved saved;
      (void)linear_forward(one.linear, one.x, at::kFloat, &saved);
      const GradientRounding rounding{.width = BitWidth(8)};
      return linear_backward(
          one.linear, saved, {.parts = parts},
          {.base = rounding, .lora_a = rounding, .lora_a_weight = rounding, .lora_b_weight = rounding}, {});
    };
    const LinearGradients whole = gradients({g}),
                          parts = gradients({g.narrow(1, 0, 8), g.narrow(1, 8, 8), g.narrow(1, 16, 8)});
    EXPECT_TRUE(at::allclose(parts.input, whole.input, 1e-4, 1e-5));
    EXPECT_TRUE(at::allclose(parts.lora_a, whole.lora_a, 1e-4, 1e-5));
    EXPECT_TRUE(at::allclose(parts.lora_b, whole.lora_b, 1e-4, 1e-5));
    EXPECT_TRUE(at::allclose(parts.weight, whole.weight, 1e-4, 1e-5));
  }
}

}  // namespace
}  // namespace qat

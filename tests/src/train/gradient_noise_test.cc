// Which updates get noise, how much, and that the draws are their own.
#include "src/train/gradient_noise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

TinyModel switchable() {
  TinyModel spec;
  spec.quant.widths = {2, 4, 8};
  spec.lora.slots = Slots::kPerWidth;
  return spec;
}

// The first step of AdamW without decay moves an element by about the learning rate times the sign of its gradient, so
// what parameters tell of the gradient is little; the first moment after one step is 0.1 times it.
struct Step {
  double norm = 0.0;
  std::map<std::string, std::vector<float>> gradients;
};

Step gradients_of(const OptimConfig& optim, const dist::StepPlan& plan, std::uint64_t seed = 5) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec = switchable();
  StepRunnerOptions options = test::tiny_options();
  options.optim = optim;
  options.seed = seed;
  TinyRank rank(spec, tokens, *comm, options);
  Step out;
  out.norm = rank.run(plan).grad_norm;
  const ParameterStore& store = rank.model().parameters();
  for (const OwnedPart& part : rank.runner().optimizer().parts()) {
    int id = 0;
    while (store.info(id).trainable_index != part.tensor) ++id;
    const auto moments = rank.runner().optimizer().exp_avg().subspan(static_cast<std::size_t>(part.offset),
                                                                     static_cast<std::size_t>(part.elems));
    for (const float m : moments) out.gradients[store.info(id).name].push_back(m * 10.0F);
  }
  return out;
}

dist::StepPlan plan_of(const std::vector<int>& widths, std::uint64_t step = 0) {
  dist::StepPlan plan{.step = step, .updates = {{.passes = {}, .learning_rate = 1e-3F}}};
  for (const int bits : widths) {
    plan.updates[0].passes.push_back({.map = static_cast<std::uint32_t>(plan.maps.size())});
    plan.maps.push_back({.weight_bits = bits, .activation_bits = bits, .gradient_bits = 8});
  }
  return plan;
}

double rms(const std::vector<float>& values) {
  double sum = 0.0;
  for (const float one : values) sum += static_cast<double>(one) * one;
  return std::sqrt(sum / static_cast<double>(values.size()));
}

std::vector<float> difference(const std::vector<float>& a, const std::vector<float>& b) {
  std::vector<float> out;
  for (std::size_t i = 0; i < a.size(); ++i) out.push_back(a[i] - b[i]);
  return out;
}

constexpr char kTable[] = "transformer.wte.weight", kWeight[] = "transformer.h.0.mlp.c_fc.weight";

TEST(GradientNoise, IsAsLargeAsItIsAskedFor) {
  for (const double clip : {0.0, 0.01}) {
    const OptimConfig still{.clip_norm = clip};
    OptimConfig relative = still, absolute = still;
    relative.noise = 0.5;
    absolute.noise = 0.125, absolute.noise_scale = NoiseScale::kAbsolute;
    const Step without = gradients_of(still, plan_of({2})), with = gradients_of(relative, plan_of({2})),
               fixed = gradients_of(absolute, plan_of({2}));
    EXPECT_EQ(with.norm, without.norm) << "the norm is that of the gradient itself";
    for (const char* name : {kTable, kWeight}) {
      const double own = rms(without.gradients.at(name));
      EXPECT_NEAR(rms(difference(with.gradients.at(name), without.gradients.at(name))), 0.5 * own, 0.1 * own) << name;
      EXPECT_NEAR(rms(difference(fixed.gradients.at(name), without.gradients.at(name))), 0.125, 0.02) << name;
    }
  }
}

TEST(GradientNoise, ComesToUpdatesAtLowWidthsAlone) {
  const OptimConfig still, noisy{.noise = 0.5, .noise_max_bits = 4};
  for (const int bits : {2, 4, 8}) {
    const bool same = gradients_of(noisy, plan_of({bits})).gradients == gradients_of(still, plan_of({bits})).gradients;
    EXPECT_EQ(same, bits > 4) << bits;
  }
  // Of several widths: what all use by the narrowest, what one has for itself by its own.
  const Step with = gradients_of(noisy, plan_of({8, 2})), without = gradients_of(still, plan_of({8, 2}));
  const std::string b = "transformer.h.0.mlp.c_fc.lora_B.";
  EXPECT_NE(with.gradients.at(kWeight), without.gradients.at(kWeight));
  EXPECT_NE(with.gradients.at(b + "w2.weight"), without.gradients.at(b + "w2.weight"));
  EXPECT_EQ(with.gradients.at(b + "w8.weight"), without.gradients.at(b + "w8.weight"));
}

TEST(GradientNoise, DrawsAnewForEveryStepSeedAndTensor) {
  const OptimConfig noisy{.noise = 1.0, .noise_scale = NoiseScale::kAbsolute}, still;
  const auto noise = [&](std::uint64_t step, std::uint64_t seed, const char* name) {
    return difference(gradients_of(noisy, plan_of({2}, step), seed).gradients.at(name),
                      gradients_of(still, plan_of({2}, step), seed).gradients.at(name));
  };
  const std::vector<float> one = noise(0, 5, kWeight);
  EXPECT_EQ(noise(0, 5, kWeight), one);
  const auto correlation = [&](const std::vector<float>& other) {
    double sum = 0.0;
    const std::size_t n = std::min(one.size(), other.size());
    for (std::size_t i = 0; i < n; ++i) sum += static_cast<double>(one[i]) * other[i];
    return sum / static_cast<double>(n);
  };
  EXPECT_GT(correlation(one), 0.8);
  EXPECT_LT(std::abs(correlation(noise(1, 5, kWeight))), 0.15);
  EXPECT_LT(std::abs(correlation(noise(0, 6, kWeight))), 0.15);
  EXPECT_LT(std::abs(correlation(noise(0, 5, "transformer.h.1.mlp.c_fc.weight"))), 0.15);
}

}  // namespace
}  // namespace qat

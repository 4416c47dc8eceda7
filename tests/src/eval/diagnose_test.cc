#include "src/eval/diagnose.h"

#include <gmock/gmock.h>

#include <cmath>

#include "kernels/common/error.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;

Diagnosis diagnosis_of(TinyModel& tiny, int bits, std::int64_t tokens = 200) {
  at::set_num_threads(1);
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, bits);
  const TokenSource text = test::tiny_tokens(tokens);
  return diagnose(*tiny.model, map, "name", nullptr, text, {.windows = 3, .length = 10, .beat = {}});
}

TEST(LogitFigures, AreOfTheFiniteOnes) {
  const at::Tensor logits = at::tensor({0.0F, 1.0F, 2.0F, 5.0F, -3.0F, NAN, INFINITY, 4.0F}).view({2, 4});
  const LogitFigures found = logit_figures(logits);
  EXPECT_EQ(found.logits, 8);
  EXPECT_EQ(found.not_a_number, 1);
  EXPECT_EQ(found.infinite, 1);
  EXPECT_DOUBLE_EQ(found.mean, 1.5);
  EXPECT_DOUBLE_EQ(found.least, -3.0);
  EXPECT_DOUBLE_EQ(found.most, 5.0);
  EXPECT_DOUBLE_EQ(found.median, 1.0);
  EXPECT_NEAR(found.near_zero, 1.0 / 6.0, 1e-12);
  const LogitFigures even = logit_figures(at::zeros({3, 4}));
  EXPECT_NEAR(even.entropy, std::log(4.0), 1e-6);
  EXPECT_EQ(even.top_5.size(), 4U);
}

TEST(Diagnose, SeesAdaptersThatDoNothingAndThoseThatDo) {
  TinyModel tiny;
  tiny.build();  // B is zero
  const Diagnosis fresh = diagnosis_of(tiny, 4);
  EXPECT_EQ(fresh.adapters, 8);
  EXPECT_EQ(fresh.zero_adapters, 8);
  EXPECT_EQ(fresh.adapter_effect.value(), 0.0);
  EXPECT_EQ(fresh.run_variance, 0.0);
  EXPECT_EQ(fresh.pass_difference, 0.0);
  EXPECT_TRUE(fresh.perplexity.has_value());
  EXPECT_EQ(diagnosis_of(tiny, 32).adapters, 0);
  tiny.randomize();
  const auto before = test::parameters_of(*tiny.model);
  const Diagnosis trained = diagnosis_of(tiny, 4);
  EXPECT_EQ(trained.zero_adapters, 0);
  EXPECT_GT(trained.adapter_effect.value(), 0.01);
  EXPECT_EQ(test::parameters_of(*tiny.model), before);
  EXPECT_EQ(trained.logits.logits, 3 * 10 * 29);
}

TEST(Diagnose, NeedsAWindowOfText) {
  TinyModel tiny;
  tiny.build();
  EXPECT_THROW((void)diagnosis_of(tiny, 4, 9), Error);
  EXPECT_EQ(diagnosis_of(tiny, 4, 15).logits.logits, 10 * 29);
}

}  // namespace
}  // namespace qat

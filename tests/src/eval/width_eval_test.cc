#include "src/eval/width_eval.h"

#include <gtest/gtest.h>

#include "src/eval/perplexity.h"
#include "tests/support/calibrated_range.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;

TEST(EvaluationPrecision, IsThatOfTraining) {
  TinyModel tiny;
  tiny.quant.overrides = {{.layers = "h.1.*", .weight_bits = 5}};
  tiny.build();
  EXPECT_EQ(evaluation_precision(*tiny.model, tiny.quant, 4).at(0), (LayerPrecision{BitWidth(4), BitWidth(4)}));
  EXPECT_EQ(evaluation_precision(*tiny.model, tiny.quant, 4).at(4), (LayerPrecision{BitWidth(5), BitWidth(4)}));
  tiny.quant.activation_bits = 7;
  EXPECT_EQ(evaluation_precision(*tiny.model, tiny.quant, 4).at(0), (LayerPrecision{BitWidth(4), BitWidth(7)}));
  // The unquantized reference has neither.
  EXPECT_TRUE(evaluation_precision(*tiny.model, tiny.quant, 32).at(0).is_full());
  EXPECT_TRUE(evaluation_precision(*tiny.model, tiny.quant, 32).at(4).is_full());
}

TEST(EvaluationWidths, AreEachScoredOnce) {
  EXPECT_EQ(evaluation_widths({.bits = {4, 8, 4}}, {}), (std::vector<EvaluatedAt>{8, 4}));
}

TEST(ScoreWidths, ScoresTheModelAtEachWidth) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const TokenSource tokens = test::tiny_tokens(60);
  const auto comm = dist::make_single_comm();
  dist::StopPoll poll(*comm);
  const auto scores =
      score_widths(*tiny.model, HeldOutText(tokens), {32, 3}, tiny.quant, {}, 12, /*threads=*/1, *comm, poll).value();
  ASSERT_EQ(scores.size(), 2U);
  for (const WidthScore& one : scores) {
    const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), one.at.bits, one.at.bits);
    const EvaluationJob job{.model = *tiny.model, .precision = map, .grid = *comm, .poll = poll};
    EXPECT_EQ(one.score.nll_sum, held_out_score(job, tokens, {}, 12)->nll_sum) << one.at.bits;
  }
  EXPECT_NE(scores[0].score.nll_sum, scores[1].score.nll_sum);
}

TEST(ScoreWidths, AWidthWithRangesOfItsOwnIsScoredWithThem) {
  TinyModel tiny;
  tiny.quant.activation = {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  tiny.build();
  tiny.randomize();
  const TokenSource tokens = test::tiny_tokens(60);
  const auto comm = dist::make_single_comm();
  const auto table = [&](float reach) {
    RangeTable ranges;
    for (const QuantLinear& linear : tiny.model->linears())
      ranges[linear.spec().index] = {.lo = at::full({1}, -reach), .hi = at::full({1}, reach), .mean = {}};
    return ranges;
  };
  const auto scores = [&](const EvaluationRanges& ranges) {
    std::vector<double> sums;
    dist::StopPoll never(*comm);
    const auto found =
        score_widths(*tiny.model, HeldOutText(tokens), {8, 3}, tiny.quant, {}, 12, /*threads=*/1, *comm, never, ranges);
    for (const WidthScore& one : found.value()) sums.push_back(one.score.nll_sum);
    return sums;
  };
  EXPECT_THROW((void)scores({{8, table(1.0F)}}), Error);  // 3 bits have none
  for (QuantLinear& linear : tiny.model->linears()) {
    for (const int bits : {8, 3})
      linear.activation_quantizer().put_in_force(test::both(bits), table(2.0F).at(linear.spec().index));
  }
  const auto in_force = scores({}), own = scores({{3, table(1.0F)}});
  EXPECT_EQ(own[0], in_force[0]);
  EXPECT_NE(own[1], in_force[1]);
}

}  // namespace
}  // namespace qat

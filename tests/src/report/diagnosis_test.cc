#include "src/report/diagnosis.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

Diagnosis healthy() {
  Diagnosis one;
  one.bits = "8";
  one.logits.logits = 100, one.logits.mean = -10.0, one.logits.deviation = 3.0;
  one.logits.top_5 = {{7, 1.5}};
  one.perplexity = 20.0;
  one.adapters = 4, one.adapter_parameters = 64, one.parameters = 1000;
  one.adapter_effect = 0.5;
  return one;
}

HealthLevel worst(const Diagnosis& one, const Diagnosis* baseline = nullptr) {
  HealthLevel found = HealthLevel::kGood;
  for (const HealthFinding& finding : health_findings(one, baseline)) found = std::max(found, finding.severity);
  return found;
}

TEST(HealthFindings, OfAHealthyModelAreGoodAndNameTheirThresholds) {
  EXPECT_EQ(worst(healthy()), HealthLevel::kGood);
  const std::string text = diagnosis_text({healthy()}, std::nullopt);
  EXPECT_THAT(text, AllOf(HasSubstr("logit mean: -10 (warning below -30, critical below -50)"),
                          HasSubstr("deterministic (below 1e-6)"),
                          HasSubstr("perplexity of the sample: 20 (warning above "
                                    "50, critical above 100)"),
                          HasSubstr("likeliest ids after the sample 7 (1.5)")));
}

TEST(HealthFindings, AreAsBadAsTheWorstFigure) {
  const auto with = [](auto change) {
    Diagnosis one = healthy();
    change(one);
    return worst(one);
  };
  EXPECT_EQ(with([](Diagnosis& d) { d.logits.mean = -31; }), HealthLevel::kWarning);
  EXPECT_EQ(with([](Diagnosis& d) { d.logits.mean = -51; }), HealthLevel::kCritical);
  EXPECT_EQ(with([](Diagnosis& d) { d.logits.not_a_number = 1; }), HealthLevel::kCritical);
  EXPECT_EQ(with([](Diagnosis& d) { d.logits.deviation = 0.9; }), HealthLevel::kWarning);
  EXPECT_EQ(with([](Diagnosis& d) { d.run_variance = 1e-3; }), HealthLevel::kNote);
  EXPECT_EQ(with([](Diagnosis& d) { d.run_variance = 0.01; }), HealthLevel::kWarning);
  EXPECT_EQ(with([](Diagnosis& d) { d.pass_difference = 1e-3; }), HealthLevel::kNote);
  EXPECT_EQ(with([](Diagnosis& d) { d.perplexity = 51; }), HealthLevel::kWarning);
  EXPECT_EQ(with([](Diagnosis& d) { d.perplexity = NAN; }), HealthLevel::kCritical);
  EXPECT_EQ(with([](Diagnosis& d) { d.drift = -11; }), HealthLevel::kWarning);
  EXPECT_EQ(with([](Diagnosis& d) { d.zero_adapters = 1; }), HealthLevel::kWarning);
  EXPECT_EQ(with([](Diagnosis& d) { d.adapter_effect = 0.01; }), HealthLevel::kWarning);
  EXPECT_EQ(with([](Diagnosis& d) { d.adapters = 0; }), HealthLevel::kNote);
}

TEST(HealthFindings, CompareWithTheBaseline) {
  Diagnosis far = healthy();
  far.logits.mean = 15.0;
  const Diagnosis baseline = healthy();
  EXPECT_EQ(worst(far), HealthLevel::kGood);
  EXPECT_EQ(worst(far, &baseline), HealthLevel::kWarning);
  far.logits.mean = 45.0;
  EXPECT_EQ(worst(far, &baseline), HealthLevel::kCritical);
  EXPECT_THAT(diagnosis_text({far, baseline}, 1),
              AllOf(HasSubstr("beside the baseline's: 55: above 50"), HasSubstr("Diagnosis at 8, the baseline")));
  EXPECT_THAT(to_json(diagnosis_value({far, baseline}, 1)), HasSubstr("\"severity\":\"critical\""));
}

}  // namespace
}  // namespace qat

#include "src/train/precision_usage.h"

#include <gtest/gtest.h>

#include <cmath>

#include "kernels/common/error.h"

namespace qat {
namespace {

TEST(PrecisionUsage, CountsPassesAndProductsByShare) {
  PrecisionUsage usage;
  EXPECT_EQ(usage.passes_text(), "");
  usage.add_pass("stripe8&4", {{8, 5.0}, {4, 7.0}});
  for (int i = 0; i < 3; ++i) usage.add_pass("4", {{4, 12.0}});
  EXPECT_EQ(usage.passes_text(), "4: 75.0 %, stripe8&4: 25.0 %");
  EXPECT_EQ(usage.macs_text(), "4: 89.6 %, 8: 10.4 %");  // 43 and 5 of 48
  const Value report = usage.report();
  EXPECT_EQ(report.at("passes").as_array()[1].at("precision").as_string(), "stripe8&4");
  EXPECT_DOUBLE_EQ(report.at("passes").as_array()[1].at("share").as_double(), 0.25);
  EXPECT_DOUBLE_EQ(report.at("macs").as_array()[1].at("share").as_double(), 5.0 / 48.0);
}

TEST(PrecisionUsage, TellsChangesOverASwitchFromSteadyOnes) {
  PrecisionUsage usage;
  EXPECT_FALSE(usage.add_loss("8", 3.0));
  const auto steady = usage.add_loss("8", 2.5), down = usage.add_loss("4", 3.5), nothing = usage.add_loss("4", NAN),
             up = usage.add_loss("8", 2.25);
  EXPECT_FALSE(steady->switched);
  EXPECT_DOUBLE_EQ(steady->loss, -0.5);
  EXPECT_TRUE(down->switched);
  EXPECT_DOUBLE_EQ(down->loss, 1.0);
  EXPECT_FALSE(nothing);
  EXPECT_DOUBLE_EQ(up->loss, -1.25);
  EXPECT_EQ(usage.at_switches(), (LossChanges{.count = 2, .sum = -0.25, .magnitude = 2.25}));
  EXPECT_EQ(usage.at_steady(), (LossChanges{.count = 1, .sum = -0.5, .magnitude = 0.5}));
  EXPECT_DOUBLE_EQ(usage.report().at("switches").at("mean_absolute_loss_change").as_double(), 1.125);
}

TEST(PrecisionUsage, ComesBackFromACheckpointAsItWas) {
  PrecisionUsage usage;
  usage.add_pass("mine", {{8, 1e17}, {32, 1.0 / 3.0}});
  (void)usage.add_loss("mine", 0.1);
  (void)usage.add_loss("8", 0.3);
  PrecisionUsage again = PrecisionUsage::from_text(usage.to_text());
  EXPECT_EQ(again, usage);
  EXPECT_EQ(again.add_loss("8", 0.2)->loss, usage.add_loss("8", 0.2)->loss);
  EXPECT_EQ(PrecisionUsage::from_text(""), PrecisionUsage());
  EXPECT_THROW((void)PrecisionUsage::from_text("{}"), Error);
}

}  // namespace
}  // namespace qat

#include "src/report/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <sstream>

#include "src/report/numbers.h"

namespace qat {
namespace {

using ::testing::HasSubstr;

// A progress line, its output, and a clock that the test moves.
class ProgressTest : public ::testing::Test {
 protected:
  Progress make(bool terminal, std::int64_t total) {
    return {out_, {.terminal = terminal, .total_steps = total, .clock = [this] { return now_; }}};
  }
  std::int64_t count(const std::string& what) const {
    const std::string text = out_.str();
    std::int64_t found = 0;
    for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
    return found;
  }

  std::ostringstream out_;
  double now_ = 1000.0;
};

TEST_F(ProgressTest, ALineSaysHowFarAndHowMuchLonger) {
  Progress progress = make(/*terminal=*/false, 100);
  now_ += 5.0;
  progress.update({.steps_done = 10, .loss = 3.14159, .precision = "4 bits", .tokens_per_s = 12345.0});
  EXPECT_EQ(out_.str(), "step 10/100  4 bits  loss 3.1416  12.3k tokens/s  ETA 0:45\n");
}

TEST_F(ProgressTest, ALineSaysWhereInItsCyclesAndHowNearThePeak) {
  Progress progress = make(/*terminal=*/false, 100);
  progress.update({.steps_done = 1,
                   .precision = "stripe8&4",
                   .cycle = ProgressState::Cycle{.number = 2, .of = 8, .share = 0.25},
                   .peak_share = 0.418});
  EXPECT_THAT(out_.str(),
              HasSubstr("step 1/100  cycle 3/8  25 %  stripe8&4  loss 0.0000  0 tokens/s  42 % of peak  ETA "));
}

TEST_F(ProgressTest, AResumedRunEstimatesFromItsOwnSteps) {
  Progress progress = make(/*terminal=*/false, 100);
  now_ += 60.0;  // loading
  progress.begin(90);
  now_ += 5.0;
  progress.update({.steps_done = 91});
  EXPECT_THAT(out_.str(), HasSubstr("step 91/100  32 bits  loss 0.0000  0 tokens/s  ETA 0:45"));
  now_ += 2.0;  // the first step takes longer than the others
  progress.update({.steps_done = 93});
  EXPECT_THAT(out_.str(), HasSubstr("step 93/100  32 bits  loss 0.0000  0 tokens/s  ETA 0:07"));
}

TEST_F(ProgressTest, InAFileALineEveryTwoPercentIfStepsAreFast) {
  Progress progress = make(/*terminal=*/false, 1000);
  for (int step = 1; step <= 1000; ++step) {
    now_ += 0.001;
    progress.update({.steps_done = step});
  }
  EXPECT_EQ(count("\n"), 51);  // 1, 21, 41, ... 981, and the last
  EXPECT_EQ(count("\r"), 0);
  EXPECT_THAT(out_.str(), HasSubstr("step 1000/1000"));
}

TEST_F(ProgressTest, InAFileALineEveryTenSecondsIfStepsAreSlow) {
  Progress progress = make(/*terminal=*/false, 100000);
  for (int step = 1; step <= 21; ++step) {
    now_ += 4.0;
    progress.update({.steps_done = step});
  }
  EXPECT_EQ(count("\n"), 7);  // 1, 4, 7, 10, 13, 16, 19
}

TEST_F(ProgressTest, OnATerminalOneLineChangesInPlaceAndNotTooOften) {
  Progress progress = make(/*terminal=*/true, 100);
  for (int step = 1; step <= 100; ++step) {
    now_ += 0.03;
    progress.update({.steps_done = step});
  }
  EXPECT_EQ(count("\n"), 0);
  EXPECT_EQ(count("\r"), 26);  // 1, 5, 9, ..., 97, and 100
  progress.finish();
  progress.finish();
  EXPECT_EQ(count("\n"), 1);
}

TEST_F(ProgressTest, MessagesStandAboveTheLine) {
  Progress progress = make(/*terminal=*/true, 100);
  progress.message("before");
  progress.update({.steps_done = 1});
  out_.str("");
  progress.message("in between");
  EXPECT_EQ(out_.str(), "\rin between\x1b[K\n\rstep 1/100  32 bits  loss 0.0000  0 tokens/s  ETA 0:00\x1b[K");
}

TEST(Numbers, AreShortAndExact) {
  EXPECT_EQ(fixed(2.5, 3), "2.500");
  EXPECT_EQ(short_count(0), "0");
  EXPECT_EQ(short_count(999), "999");
  EXPECT_EQ(short_count(999.6), "1.00k");
  EXPECT_EQ(short_count(12345), "12.3k");
  EXPECT_EQ(short_count(123456), "123k");
  EXPECT_EQ(short_count(124439808), "124M");
  EXPECT_EQ(duration(7.4), "0:07");
  EXPECT_EQ(duration(3599.6), "1:00:00");
  EXPECT_EQ(duration(12301), "3:25:01");
  EXPECT_EQ(duration(2 * 86400 + 61), "2d 00:01:01");
  EXPECT_EQ(duration(-1), "?");
  EXPECT_EQ(byte_size(1023), "1023 B");
  EXPECT_EQ(byte_size(1536), "1.50 KiB");
  EXPECT_EQ(byte_size(497759232), "474.70 MiB");
}

}  // namespace
}  // namespace qat

#include "src/report/plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

namespace qat {
namespace {

using ::testing::DoubleNear;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

using Points = std::vector<std::pair<double, double>>;

TEST(Plot, TicksAreRound) {
  EXPECT_THAT(round_ticks(0, 256, 8), ElementsAre(0, 50, 100, 150, 200, 250));
  EXPECT_THAT(round_ticks(2.71, 5.55, 7),
              ElementsAre(3, DoubleNear(3.5, 1e-9), 4, DoubleNear(4.5, 1e-9), 5, DoubleNear(5.5, 1e-9)));
  EXPECT_THAT(round_ticks(-1, 1, 5), ElementsAre(-1, -0.5, 0, 0.5, 1));
  EXPECT_THAT(round_ticks(3, 3, 5), ElementsAre(3));
  EXPECT_THAT(log_ticks(1, 1e6, 7), ElementsAre(1, 10, 100, 1e3, 1e4, 1e5, 1e6));
  EXPECT_THAT(log_ticks(8, 120, 7), ElementsAre(10, 20, 50, 100));
  for (const double high : {1.1, 2.0, 50.0, 1e12, 1e300}) {
    EXPECT_LE(log_ticks(1, high, 7).size(), 7U) << high;
    EXPECT_LE(round_ticks(0, high, 7).size(), 7U) << high;
    EXPECT_GE(round_ticks(0, high, 7).size(), 3U) << high;
  }
}

TEST(Plot, TickTextsAreShort) {
  EXPECT_EQ(tick_text(0), "0");
  EXPECT_EQ(tick_text(0.0003), "0.0003");
  EXPECT_EQ(tick_text(6e-5), "6e-05");
  EXPECT_EQ(tick_text(2.5), "2.5");
  EXPECT_EQ(tick_text(0.1 + 0.2), "0.3");
  EXPECT_EQ(tick_text(2000), "2000");
  EXPECT_EQ(tick_text(20000), "20k");
  EXPECT_EQ(tick_text(1.5e6), "1.5M");
  EXPECT_EQ(tick_text(-25000), "-25k");
}

TEST(Plot, ThinningKeepsEndsAndExtremes) {
  Points points;
  for (int i = 0; i < 100000; ++i) points.emplace_back(i, std::sin(i * 0.01));
  points[12345].second = 50.0;
  points[54321].second = -50.0;
  const Points kept = thinned(points, 100);
  EXPECT_LE(kept.size(), 400U);
  EXPECT_GT(kept.size(), 200U);
  EXPECT_EQ(kept.front(), points.front());
  EXPECT_EQ(kept.back(), points.back());
  EXPECT_THAT(kept, ::testing::Contains(points[12345]));
  EXPECT_THAT(kept, ::testing::Contains(points[54321]));
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  const Points few(points.begin(), points.begin() + 400);
  EXPECT_EQ(thinned(few, 100), few);
}

TEST(Plot, DrawsWhatIsThereAndEscapesNames) {
  const Plot plot{.title = "a < b & c",
                  .y_label = "nats",
                  .series = {{.name = "\"8\" bits", .hue = 10, .points = {{0, 1}, {1, NAN}, {2, 3}, {3, 4}}}}};
  EXPECT_TRUE(has_points(plot));
  const std::string figure = to_figure(plot);
  EXPECT_THAT(figure, HasSubstr("<h3>a &lt; b &amp; c</h3>"));
  EXPECT_THAT(figure, HasSubstr("&quot;8&quot; bits"));
  EXPECT_THAT(figure, HasSubstr("hsl(10 var(--s) var(--l))"));
  EXPECT_THAT(figure, HasSubstr(">nats</text>"));
  // The line has a gap where there is no number: two strokes.
  const std::size_t at = figure.find("class=\"line\"");
  const std::string path = figure.substr(at, figure.find("/>", at) - at);
  EXPECT_EQ(std::count(path.begin(), path.end(), 'M'), 2);
  EXPECT_THAT(figure, Not(HasSubstr("nan")));
  EXPECT_THAT(figure, Not(HasSubstr("inf")));
}

TEST(Plot, StrangeValuesDrawNothingStrange) {
  for (const Points& points :
       {Points{}, Points{{0, NAN}}, Points{{5, 5}}, Points{{0, 0}, {1, 0}}, Points{{0, -1}, {1, 1e308}}})
    for (const bool log : {false, true}) {
      const std::string figure = to_figure({.title = "t", .series = {{.points = points}}, .log_y = log});
      EXPECT_THAT(figure, Not(HasSubstr("nan"))) << points.size();
      EXPECT_THAT(figure, Not(HasSubstr("inf"))) << points.size();
    }
  EXPECT_FALSE(has_points({.series = {{.points = {{0, NAN}}}}}));
  EXPECT_FALSE(has_points({.series = {{.points = {{0, -1}}}}, .log_y = true}));
}

}  // namespace
}  // namespace qat

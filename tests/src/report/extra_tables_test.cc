// The tables beside the held-out one: perplexities of texts, what narrower widths cost, speed, and what stands out.
#include <gmock/gmock.h>

#include <cmath>

#include "src/report/baseline_table.h"
#include "src/report/robustness_table.h"
#include "src/report/speed_table.h"
#include "src/report/task_tables.h"
#include "src/report/text_tables.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

TextFigures text(const std::string& name, double mean_nll) {
  return {
      .text = name, .file = name, .window = 8, .stride = 4, .nll = 100 * mean_nll, .tokens_scored = 100, .error = {}};
}

WidthResult width(int bits, double bits_a_weight) {
  WidthResult one;
  one.weight_bits = one.activation_bits = bits;
  one.size = {.linear_bytes = 0, .other_bytes = 50 << 20, .full_bytes = 100 << 20, .effective_bits = bits_a_weight};
  return one;
}

std::vector<WidthResult> two_widths() {
  WidthResult low = width(4, 4.0), full = width(32, 32.0);
  low.texts = {text("wiki", std::log(30.0)), text("books", std::log(12.0))};
  full.texts = {text("wiki", std::log(20.0)), text("books", NAN)};
  TaskFigures task{.task = "arc", .kind = "arc", .file = "f", .groups = {}, .error = {}};
  task.right.fill({.right = 25, .items = 100});
  low.tasks = {task};
  task.right.fill({.right = 40, .items = 100});
  full.tasks = {task};
  return {low, full};
}

TEST(PerplexityTable, HasAColumnATextAndTheLowestFirst) {
  EXPECT_EQ(perplexity_table(two_widths()).csv(),
            "Bits,W,A,KV,Size,wiki,books\n32,32,32,32,50.00 MiB,20.000,\n4,4,4,32,50.00 MiB,30.000,12.000\n");
  EXPECT_THAT(text_tables_text(two_widths()),
              AllOf(HasSubstr("wiki: 100 tokens scored, by itself, in windows of 8 tokens, 4 apart\n"),
                    HasSubstr("no perplexity of books at 32: the loss is not finite")));
  EXPECT_THAT(to_json(perplexities_value(two_widths()[1].texts)),
              AllOf(HasSubstr(R"({"wiki":)"), HasSubstr(R"("books":null})")));
}

TEST(QuickPerplexity, IsThatOfALossOfAtMostTwenty) {
  TextFigures bad = text("wiki", 25.0);
  EXPECT_FALSE(bad.clamped());
  bad.quick = true;
  EXPECT_TRUE(bad.clamped());
  EXPECT_EQ(bad.perplexity().value(), std::exp(20.0));
  EXPECT_THAT(to_json(texts_value({bad})), HasSubstr("\"clamped\":true"));
}

TEST(TokenAccuracy, IsOfTheScoredTokens) {
  WidthResult one = width(8, 8.0);
  one.texts = {text("wiki", 1.0)};
  EXPECT_EQ(token_accuracy_table({one}).rows(), 0U);
  one.texts[0].likeliest = 25, one.texts[0].in_top_5 = 50;
  EXPECT_EQ(token_accuracy_table({one}).csv(), "Bits,W,A,KV,wiki top-1,wiki top-5\n8,8,8,32,25.00,50.00\n");
}

TEST(Change, IsFromTheBaselineAndMissingWhereEitherIs) {
  const auto widths = two_widths();
  EXPECT_EQ(baseline_of(widths, ""), 1U);
  EXPECT_EQ(baseline_of(widths, "4"), 0U);
  EXPECT_FALSE(baseline_of(widths, "8").has_value());
  EXPECT_FALSE(baseline_of({widths[0]}, "").has_value());
  EXPECT_EQ(change_table(widths, 1).csv(), "Bits,W,A,KV,wiki,books,arc,Avg\n4,4,4,32,+10.000,,-15.0,-15.0\n");
  EXPECT_THAT(change_text(widths, 1), HasSubstr("Change from 32:"));
}

TEST(CategoryTable, HasThePlainMeanOverCategories) {
  WidthResult one = width(8, 8.0);
  TaskFigures mmlu{.task = "mmlu", .kind = "few_shot", .file = "f", .has_groups = true, .groups = {}, .error = {}};
  mmlu.groups = {{.name = "STEM"}, {.name = "Other"}};
  mmlu.groups[0].right.fill({.right = 1, .items = 2});
  mmlu.groups[1].right.fill({.right = 0, .items = 1});
  one.tasks = {mmlu};
  EXPECT_EQ(category_table({one}).csv(),
            "Bits,W,A,KV,Size,mmlu STEM,mmlu Other,mmlu Avg\n8,8,8,32,50.00 MiB,50.0 ±50.0,0.0,25.0\n");
  EXPECT_THAT(task_tables_text({one}), AllOf(HasSubstr("Few-shot"), ::testing::Not(HasSubstr("log-likelihood"))));
}

TEST(LayerTimeTable, AddsUpTheSameLayerOfAllBlocks) {
  WidthResult low = width(4, 4.0), full = width(32, 32.0);
  low.speed = full.speed = SpeedFigures{.batch = 1, .length = 10, .passes = 1, .mean_ms = 12.0};
  EXPECT_EQ(layer_time_table({low, full}).rows(), 0U);
  low.speed->layers = {{"embedding", 1.0}, {"h.0.attn.c_attn", 2.0, 0.5}, {"h.11.attn.c_attn", 3.0}, {"ln_f", 4.0}};
  EXPECT_EQ(layer_time_table({low, full}).csv(),
            "Layers,Of them,4: ms,4: %\nembedding,1,1.000,10.0\nattn.c_attn,2,5.000,50.0\nln_f,1,4.000,40.0\n");
  EXPECT_THAT(speed_markdown({low, full}), HasSubstr("### Time of the layers"));
  EXPECT_THAT(to_json(speed_value(*low.speed)),
              HasSubstr(R"({"layer":"h.0.attn.c_attn","mean_ms":2.0,"deviation_ms":0.5})"));
}

RobustnessFigures disturbed(std::int64_t clean, std::int64_t worst) {
  RobustnessFigures figures{.epsilon = 0.01, .rate = 0.1, .steps = 10, .tokens = 1000, .clean = clean};
  figures.right = {clean, clean, worst, clean, clean};
  return figures;
}

TEST(RobustnessTable, HasTheGapBetweenTheCleanAndTheWorst) {
  WidthResult low = width(4, 4.0), full = width(32, 32.0);
  EXPECT_EQ(robustness_text({low, full}), "");
  low.robustness = disturbed(400, 150);
  full.robustness = disturbed(0, 0);
  EXPECT_EQ(robustness_table({low, full}).csv(),
            "Bits,W,A,KV,Clean,Noise,FGSM,PGD,Dropped,Replaced,Gap,Worst/clean\n"
            "4,4,4,32,40.00,40.00,40.00,15.00,40.00,40.00,25.00,0.375\n"
            "32,32,32,32,0.00,0.00,0.00,0.00,0.00,0.00,0.00,\n");
  EXPECT_THAT(robustness_markdown({low}),
              AllOf(HasSubstr("1000 tokens"), HasSubstr("PGD (10 steps)"), HasSubstr("embeddings by 0.01; 10.0 % of")));
  EXPECT_THAT(to_json(robustness_value(*low.robustness)),
              AllOf(HasSubstr(R"("pgd":0.15)"), HasSubstr(R"("gap":0.25)"), HasSubstr(R"("ratio":0.375)")));
  EXPECT_THAT(to_json(robustness_value(*full.robustness)), HasSubstr(R"("ratio":null)"));
}

TEST(Insights, OfRobustnessGoByTheGap) {
  const auto lines = [](std::int64_t worst) { return robustness_insights(disturbed(500, worst)); };
  EXPECT_THAT(lines(450), ElementsAre("strong robustness, a gap of 0.050 (below 0.1)"));
  EXPECT_THAT(lines(350), ElementsAre("moderate robustness, a gap of 0.150 (below 0.3)"));
  EXPECT_THAT(lines(250), ElementsAre("moderate robustness, a gap of 0.250 (below 0.3)",
                                      "the gap of 0.250 is above 0.2: adversarial training is advised"));
  EXPECT_THAT(lines(100), ElementsAre("weak robustness, a gap of 0.400 (0.3 or more)",
                                      "the gap of 0.400 is above 0.2: adversarial training is advised"));
  WidthResult one = width(4, 4.0);
  one.robustness = disturbed(500, 450);
  EXPECT_THAT(insights(one), ElementsAre(HasSubstr("50.0 MiB"), HasSubstr("strong robustness")));
}

TEST(Insights, NameTheirThresholds) {
  WidthResult one = width(8, 8.0);
  one.texts = {text("wiki", std::log(80.0))};
  one.speed = SpeedFigures{.batch = 2, .length = 50, .passes = 3, .mean_ms = 200.0};
  EXPECT_EQ(one.speed->tokens_per_second(), 500.0);
  EXPECT_THAT(insights(one),
              ElementsAre(HasSubstr("moderate throughput, 500 tokens/s (above 100)"), HasSubstr("below 100 MiB"),
                          HasSubstr("real-time use on edge"), HasSubstr("perplexity 80.0 is above 50"),
                          HasSubstr("8.00 bits a weight are above 4")));
  EXPECT_NEAR(efficiency(one).value(), 500.0 / (50.0 * 80.0), 1e-9);
  EXPECT_THAT(insights(width(4, 4.0)), ElementsAre(HasSubstr("50.0 MiB")));
}

}  // namespace
}  // namespace qat

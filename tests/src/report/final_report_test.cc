#include "src/report/final_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "src/base/file.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

WidthResult result(int bits, double nll_per_token) {
  WidthResult width;
  width.weight_bits = bits;
  width.activation_bits = bits;
  width.nll = 1000 * nll_per_token;
  width.tokens_scored = 1000;
  width.size = {
      .linear_bytes = 600, .adapter_bytes = 24, .other_bytes = 400, .full_bytes = 4096, .effective_bits = 4.5};
  width.forward_bitops_ratio = 0.0625;
  return width;
}

TEST(WidthResult, PerplexityIsTheExponentialOfTheMean) {
  EXPECT_DOUBLE_EQ(result(8, std::log(20.0)).perplexity().value(), 20.0);
  EXPECT_EQ(result(8, 1.0).failure(), "");
}

TEST(WidthResult, ThereIsNoPerplexityWithoutAFiniteOne) {
  EXPECT_FALSE(result(8, std::numeric_limits<double>::quiet_NaN()).perplexity());
  EXPECT_EQ(result(8, std::numeric_limits<double>::infinity()).failure(), "the loss is not finite");
  EXPECT_EQ(result(8, 1000.0).failure(), "the perplexity is too large for a number");
  EXPECT_EQ(WidthResult{}.failure(), "no tokens were scored");
  WidthResult failed = result(8, 1.0);
  failed.error = "calibration is missing";
  EXPECT_FALSE(failed.perplexity());
  EXPECT_EQ(failed.failure(), "calibration is missing");
}

TEST(WidthTable, HasARowAWidthAndADashForWhatIsMissing) {
  const Table table = width_table({result(4, std::log(20.0)), result(32, std::numeric_limits<double>::quiet_NaN())});
  EXPECT_EQ(table.csv(),
            "Bits W,Bits A,Perplexity,NLL/token,Tokens,Size,Linear layers,Bits/weight,Compression,Forward BitOps\n"
            "4,4,20.000,2.9957,1000,1.00 KiB,600 B,4.50,4.00x,6.25 %\n"
            "32,32,,,1000,1.00 KiB,600 B,4.50,4.00x,6.25 %\n");
}

TEST(WidthTable, OfQuestionsSaysHowTheyWereAnswered) {
  WidthResult asked = result(4, 1000.0);  // no perplexity, and none is missed
  asked.answers = AnswerFigures{.exact_match = 12.5, .f1 = 33.333, .questions = 200};
  EXPECT_EQ(asked.failure(), "");
  EXPECT_EQ(width_table({asked}).csv(),
            "Bits W,Bits A,Exact match,F1,Questions,Loss/window,Size,Linear layers,Bits/weight,Compression,Forward "
            "BitOps\n4,4,12.50,33.33,200,1000.0000,1.00 KiB,600 B,4.50,4.00x,6.25 %\n");
  FinalReport report;
  report.widths = {asked};
  EXPECT_THAT(to_markdown(report), HasSubstr("## Held-out questions at every width"));
  const Value width = to_value(report).at("widths").as_array().at(0);
  EXPECT_EQ(width.at("exact_match").as_double(), 12.5);
  EXPECT_EQ(width.at("questions").as_int(), 200);
  EXPECT_EQ(width.find("perplexity"), nullptr);
}

TEST(FinalReport, IsWrittenForPeopleAndForPrograms) {
  const ScratchFolder folder;
  FinalReport report;
  report.title = "Run quickstart";
  report.summary = {{"Steps", "300"}, {"Training BitOps", "6.2 % of 32 bits"}};
  report.details = Value::object({{"steps", 300}, {"seed", 1}});
  report.widths = {result(4, std::log(20.0)), result(2, std::numeric_limits<double>::infinity())};
  const std::string console = write_final_report(folder.path(), report);
  EXPECT_EQ(console, width_table(report.widths).ascii() + "no perplexity at 2 bits: the loss is not finite\n");

  const std::string markdown = read_file(folder.path() / "report.md");
  EXPECT_THAT(markdown, HasSubstr("# Run quickstart\n"));
  EXPECT_THAT(markdown, HasSubstr("| Training BitOps | 6.2 % of 32 bits |"));
  EXPECT_THAT(markdown, HasSubstr(width_table(report.widths).markdown()));
  EXPECT_THAT(markdown, HasSubstr("- 2 bits: the loss is not finite\n"));

  const nlohmann::json json = nlohmann::json::parse(read_file(folder.path() / "report.json"));
  EXPECT_EQ(json.at("steps"), 300);
  EXPECT_EQ(json.at("title"), "Run quickstart");
  const nlohmann::json& four = json.at("widths").at(0);
  EXPECT_EQ(four.at("bit_width"), 4);
  EXPECT_NEAR(four.at("perplexity").at("held_out").get<double>(), 20.0, 1e-12);
  EXPECT_EQ(four.at("model_size_bytes"), 1024);
  EXPECT_EQ(four.at("compression_ratio"), 4.0);
  EXPECT_FALSE(four.contains("error"));
  const nlohmann::json& two = json.at("widths").at(1);
  EXPECT_TRUE(two.at("perplexity").at("held_out").is_null());
  EXPECT_TRUE(two.at("nll").is_null());
  EXPECT_EQ(two.at("error"), "the loss is not finite");
}

TEST(FinalReport, SaysNothingOfFailuresWhereThereAreNone) {
  FinalReport report;
  report.title = "t";
  report.widths = {result(4, 1.0)};
  EXPECT_THAT(to_markdown(report), Not(HasSubstr("Without a perplexity")));
}

TEST(FinalReport, RowsOfMapsHaveTheirNameAndRanges) {
  WidthResult plain{.weight_bits = 8, .activation_bits = 8, .nll = 10.0, .tokens_scored = 5};
  WidthResult mapped = plain;
  mapped.map = MapBits{.name = "stripe8&4", .weights = {4, 8}, .activations = {8, 8}, .kv = {32, 32}};
  EXPECT_THAT(width_table({plain}).ascii(), ::testing::StartsWith("+--------+--------+------------+"));
  const std::string table = width_table({plain, mapped}).ascii();
  EXPECT_THAT(table, ::testing::HasSubstr("| stripe8&4 |   4..8 |      8 |      32 |"));
  EXPECT_THAT(table, ::testing::HasSubstr("| -         |      8 |      8 |       - |"));
  mapped.nll = INFINITY;
  const Value report = to_value(FinalReport{.title = "t", .widths = {plain, mapped}});
  EXPECT_EQ(report.at("widths").as_array()[0].find("map"), nullptr);
  EXPECT_EQ(report.at("widths").as_array()[1].at("map").as_string(), "stripe8&4");
  EXPECT_EQ(to_json(report.at("widths").as_array()[1].at("weight_bits_range")), "[4,8]");
  EXPECT_THAT(to_markdown({.title = "t", .widths = {mapped}}), ::testing::HasSubstr("- map stripe8&4: the loss is"));
}

}  // namespace
}  // namespace qat

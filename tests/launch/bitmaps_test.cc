// Maps of layers' widths, as a user trains, resumes and scores them.
#include <gmock/gmock.h>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Bitmaps : public Cli {
 protected:
  std::string spnet(const std::string& dir, const std::string& more = "") const {
    return " --config " + quote(source_ + "/configs/spnet.json") + " --set run.dir=" + quote((root_ / dir).string()) +
           " --set train.steps=6 --set lr.warmup_steps=1 --set checkpoint.every=3 --set eval.max_tokens=300 "
           "--set data.sequence_length=32 " +
           more;
  }
  Outcome eval(const std::string& dir, const std::string& more) const {
    return shell(program() + " eval --checkpoint " + quote((root_ / dir).string()) + " " + more);
  }
  // The cells of the table's rows, headings left out.
  static std::vector<std::vector<std::string>> rows(const std::string& text) {
    std::vector<std::vector<std::string>> out;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
      if (!line.starts_with("|") || line.find("Bits W") != std::string::npos) continue;
      std::vector<std::string> cells;
      std::istringstream parts(line.substr(1));
      for (std::string cell; std::getline(parts, cell, '|');) {
        cell.erase(0, cell.find_first_not_of(' '));
        cell.erase(cell.find_last_not_of(' ') + 1);
        cells.push_back(cell);
      }
      out.push_back(cells);
    }
    return out;
  }
};

TEST_F(Bitmaps, PerMapTrainsToTheSameLossesOnOneAndTwoRanksAndAfterAResume) {
  const std::string recipe = "--set train.recipe=per_map";
  const Outcome one = shell(program() + spnet("one", recipe)), two = shell(on_ranks(2) + spnet("two", recipe));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  ASSERT_EQ(two.exit_code, 0) << two.text;
  EXPECT_THAT(one.text, HasSubstr("map stripe8&4: 4 linear layers at W8 A8, 4 at W4 A4"));
  ASSERT_EQ(losses("one").size(), 6U);
  EXPECT_EQ(losses("two"), losses("one"));
  const auto table = rows(one.text);
  EXPECT_EQ(rows(two.text), table);
  ASSERT_EQ(table.size(), 5U);
  EXPECT_EQ(table[3][0], "stripe8&4");
  EXPECT_EQ(table[3][1], "4..8");
  fs::remove_all(root_ / "two/checkpoints/step_00000006");
  fs::remove(root_ / "two/report.json");
  fs::remove(root_ / "two/report.md");
  const Outcome resumed = shell(program() + spnet("two", recipe));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.text;
  EXPECT_EQ(losses("two"), losses("one"));
  EXPECT_EQ(rows(resumed.text), table);
  EXPECT_EQ(rows(eval("one", "").text), table);
}

TEST_F(Bitmaps, SpnetTrainsEveryMapAndWidthsMapsAndNamedConfigurationsAreScored) {
  const Outcome run = shell(program() + spnet("run"));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  EXPECT_THAT(content(root_ / "run/metrics.jsonl"), HasSubstr("\"map\":\"stripe4&2\""));
  EXPECT_THAT(content(root_ / "run/report.md"), HasSubstr("passes by precision"));
  const Outcome width = eval("run", "--bits 4,32"),
                map = eval("run",
                           "--bitmap 4 --bitmap 'all: 4,4,4,4,4,4,4,4' --bitmap 'attn=4,mlp=4' --bitmap 32 "
                           "--config-name FP32 --config-name 4-4-32");
  ASSERT_EQ(width.exit_code, 0) << width.text;
  ASSERT_EQ(map.exit_code, 0) << map.text;
  const auto of_widths = rows(width.text), of_maps = rows(map.text);  // 32 bits first
  ASSERT_EQ(of_maps.size(), 6U);
  // Without the name and the bits of keys and values: perplexity, NLL, tokens, sizes, BitOps.
  const auto figures = [](const std::vector<std::string>& row, std::size_t from) {
    return std::vector<std::string>(row.begin() + static_cast<std::ptrdiff_t>(from), row.end());
  };
  for (const std::size_t i : {0, 1, 2, 5}) EXPECT_EQ(figures(of_maps[i], 4), figures(of_widths[1], 2)) << i;
  for (const std::size_t i : {3, 4}) EXPECT_EQ(figures(of_maps[i], 4), figures(of_widths[0], 2)) << i;
  EXPECT_EQ(of_maps[1][0], "all");
  const auto named = rows(eval("run", "--bitmap stripe8'&'2 --config-name W4A8KV8 --config-name W4A8KV2").text);
  ASSERT_EQ(named.size(), 3U);
  EXPECT_EQ(named[0][1], "2..8");
  EXPECT_EQ(std::vector(named[1].begin(), named[1].begin() + 4), (std::vector<std::string>{"W4A8KV8", "4", "8", "8"}));
  EXPECT_EQ(std::vector(named[2].begin(), named[2].begin() + 4), (std::vector<std::string>{"W4A8KV2", "4", "8", "2"}));
  EXPECT_NE(named[1][4], named[2][4]);
}

TEST_F(Bitmaps, WhatIsNoMapOrHasNoSlotsIsRefused) {
  ASSERT_EQ(shell(program() + spnet("run", "--set train.steps=2")).exit_code, 0);
  const auto refused = [&](const std::string& options) {
    const Outcome got = eval("run", options);
    EXPECT_EQ(got.exit_code, 2) << got.text;
    return got.text;
  };
  EXPECT_THAT(refused("--bitmap stripe8'&'3"), HasSubstr("the model has adapters or layer norms of its own for each of "
                                                         "the widths 2, 4, 8, 32"));
  EXPECT_THAT(refused("--bitmap 8,4"), HasSubstr("must list 8 widths"));
  EXPECT_THAT(refused("--config-name stripe8'&'4"), HasSubstr("--config-name is \"stripe8&4\": must be one of FP32"));
  EXPECT_THAT(refused("--config-name W3A8KV8"), HasSubstr("must have no weights of 3 bits"));
  const Outcome train = shell(on_ranks(2) + spnet("other", "--set quant.maps='[\"8\",\"progressive_4_8\"]'"));
  EXPECT_EQ(train.exit_code, 2);
  EXPECT_EQ(count(train.text, "needs more than 4 blocks"), 1U) << train.text;
}

TEST_F(Bitmaps, ASwitchingRunResumesOnOtherRanks) {
  const std::string options =
      "--set train.recipe=cpt --set precision.kind=random --set precision.switch_interval=1 --set "
      "precision.switch_probability=0.8 --set precision.static_after=5 --set 'precision.static_at=stripe8&4'";
  ASSERT_EQ(shell(program() + spnet("whole", options)).exit_code, 0);
  ASSERT_EQ(shell(program() + spnet("parts", options)).exit_code, 0);
  fs::remove_all(root_ / "parts/checkpoints/step_00000006");
  const Outcome resumed = shell(on_ranks(2) + spnet("parts", options));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.text;
  EXPECT_EQ(losses("parts"), losses("whole"));
  const auto precisions = [&](const std::string& dir) {
    const std::string text = content(root_ / dir / "report.json");
    const std::size_t at = text.find("\"precisions\"");
    return text.substr(at, text.find("\"checkpoint\"", at) - at);
  };
  EXPECT_THAT(precisions("whole"), HasSubstr("mean_loss_change"));
  EXPECT_EQ(precisions("parts"), precisions("whole"));
}

}  // namespace
}  // namespace qat::cli

#include "src/config/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <random>

#include "tests/src/config/config_test_tools.h"

namespace qat {
namespace {

using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::load_sets;
using testing::load_text;
using ::testing::Not;
using testing::Sets;

TEST(LoadRunConfig, DefaultsAreValidAndWithoutWarnings) {
  const LoadResult result = load_sets({});
  EXPECT_EQ(result.config.train.steps, 1000);
  EXPECT_EQ(result.config.quant.activation.granularity, Granularity::kToken);
  EXPECT_THAT(result.warnings, IsEmpty());
}

TEST(LoadRunConfig, ReadsEveryTypeOfValue) {
  const RunConfig c = load_text(R"({
    "$schema": "../schema.json", "version": 1, "comment": "text", // and comments
    "run": {"seed": 9007199254740993, "dir": "läufe/ein Lauf"},
    "model": {"freeze_base": true, "init": "checkpoint", "init_from": "a"},
    "quant": {"widths": [4, 8, 32], "weight": {"method": "log"},
              "overrides": [{"layers": "h.0.*", "weight_bits": 8}, {"layers": "*.c_fc", "gradient_bits": 32}]},
    "precision": {"min_bits": 4}, "lr": {"peak": 1e-3}, "optim": {"eps": 1},
    "train": {"steps": 2e3}, "data": {"train": ["a.bin", "b.bin"], "val": ["c.bin"]}
  })")
                          .config;
  EXPECT_EQ(c.run.seed, 9007199254740993U);
  EXPECT_EQ(c.run.dir, "läufe/ein Lauf");
  EXPECT_TRUE(c.model.freeze_base);
  EXPECT_EQ(c.quant.widths, (std::vector<int>{4, 8, 32}));
  EXPECT_EQ(c.quant.weight.method, QuantizerKind::kLog);
  EXPECT_EQ(c.quant.activation.method, QuantizerKind::kMinMax);
  ASSERT_EQ(c.quant.overrides.size(), 2U);
  EXPECT_EQ(c.quant.overrides[0].weight_bits, 8);
  EXPECT_EQ(c.quant.overrides[1].gradient_bits, 32);
  EXPECT_EQ(c.lr.peak, 1e-3);
  EXPECT_EQ(c.optim.eps, 1.0);
  EXPECT_EQ(c.train.steps, 2000);
  EXPECT_EQ(c.data.train, (std::vector<std::string>{"a.bin", "b.bin"}));
}

TEST(LoadRunConfig, AMisspeltKeyIsNamedWithItsLineAndTheNearestKey) {
  EXPECT_EQ(error_of("{\n  \"lr\": {\n    \"learnig_rate\": 1e-3\n  }\n}"),
            "the configuration has an error:\n"
            "  run.json:3: lr.learnig_rate: unknown key; did you mean \"lr.peak\" (learning rate after warm-up)?");
  EXPECT_THAT(error_of(R"({"train": {"setps": 5}})"),
              HasSubstr("train.setps: unknown key; did you mean \"train.steps\"?"));
  EXPECT_THAT(error_of(R"({"trian": {"steps": 5}})"), HasSubstr("trian: unknown key; did you mean \"train\"?"));
  EXPECT_THAT(error_of(R"({"quant": {"weigth": {}}})"), HasSubstr("did you mean \"quant.weight\"?"));
}

TEST(LoadRunConfig, AKeyOfAnotherSectionIsSuggestedWithItsWholePath) {
  EXPECT_THAT(error_of(R"({"steps": 5})"),
              HasSubstr("run.json:1: steps: unknown key; did you mean \"range_test.steps\" or \"train.steps\"?"));
  EXPECT_THAT(error_of(R"({"model": {"warmup_steps": 5}})"),
              HasSubstr("did you mean \"precision.warmup_steps\" or \"lr.warmup_steps\"?"));
  EXPECT_THAT(error_of(R"({"train": {"bit_widths": [8]}})"), HasSubstr("did you mean \"quant.widths\""));
  EXPECT_THAT(error_of(R"({"train.steps": 5})"), HasSubstr(R"(write it as "train": {"steps": ...})"));
  EXPECT_THAT(error_of(R"({"eval": {"unheard_of": 5}})"),
              HasSubstr("known here: every, at_start, bits, maps, max_tokens"));
  EXPECT_THAT(error_of(R"({"quant": {"overrides": [{"layers": "*", "weight_bit": 4}]}})"),
              HasSubstr("quant.overrides[0].weight_bit: unknown key; did you mean \"weight_bits\"?"));
}

TEST(LoadRunConfig, AllErrorsAreReportedAtOnceEachWithLineValueAndRule) {
  const std::string message = error_of(R"({
  "model": {"n_embd": 100, "n_head": 12},
  "quant": {"widths": [19, 4, 4, 32.5]},
  "precision": {"cycles": 0, "min_bits": 8, "max_bits": 3},
  "lr": {"warmup_steps": 2000, "peak": -1},
  "train": {"batch_size": "8", "micro_batch_size": 1.5, "steps": 1000},
  "eval": {"every": -1},
  "data": {"train": "a.bin", "val": [], "sequence_length": null},
  "trian": 3
})");
  for (const char* line :
       {"run.json:2: model.n_embd = 100: must be a multiple of model.n_head; nearest: 96 or 108 (model.n_head = 12, "
        "run.json:2)",
        "run.json:3: quant.widths[0] = 19: must be 1..18 or 32",
        "run.json:3: quant.widths[2] = 4: must not be there twice",
        "run.json:3: quant.widths[3] = 32.5: must be 1..18 or 32",
        "run.json:4: precision.cycles = 0: must be an integer of at least 1",
        "run.json:4: precision.min_bits = 8: must not exceed precision.max_bits (precision.max_bits = 3, run.json:4)",
        "run.json:5: lr.warmup_steps = 2000: must not exceed train.steps (train.steps = 1000, run.json:6)",
        "run.json:5: lr.peak = -1: must be a number from 1.2e-38 to 3.4e+38",
        "run.json:6: train.batch_size = \"8\": must be an integer from 1 to 16777216, without quotes",
        "run.json:6: train.micro_batch_size = 1.5: must be an integer from 1 to 16777216",
        "run.json:7: eval.every = -1: must be an integer from 0 to 1000000000",
        "run.json:8: data.train = \"a.bin\": must be a list of texts, not empty, such as [\"a.bin\"]",
        "run.json:8: data.val = []: must be a list of texts, not empty",
        "run.json:8: data.sequence_length = null: must be an integer from 1 to 1048576",
        "run.json:9: trian: unknown key; did you mean \"train\"?"}) {
    EXPECT_THAT(message, HasSubstr(line));
  }
  // What could not be read is not judged by its default: no rule that reads quant.widths or the batch speaks.
  EXPECT_EQ(std::count(message.begin(), message.end(), '\n'), 15);
}

TEST(LoadRunConfig, WrongEnumeratorsListTheAllowedOnesAndTheNearest) {
  EXPECT_THAT(
      error_of(R"({"precision": {"kind": "cosin"}})"),
      HasSubstr("precision.kind = \"cosin\": must be one of cosine, triangular, list, constant, cyclic, random, "
                "progressive, scheduled, linear, exponential, rex; did you mean "
                "\"cosine\"?"));
  EXPECT_THAT(error_of(R"({"quant": {"weight": {"granularity": "token"}}})"),
              HasSubstr("quant.weight.granularity = \"token\": must be one of tensor, channel"));
  EXPECT_THAT(error_of(R"({"model": {"preset": "gpt3"}})"), HasSubstr("gpt2-xl, or empty; did you mean \"gpt2\"?"));
  EXPECT_THAT(error_of(R"({"model": {"freeze_base": "true"}})"), HasSubstr("must be true or false, without quotes"));
  EXPECT_THAT(error_of(R"({"run": {"dir": ""}})"), HasSubstr("run.dir = \"\": must be text, not empty"));
  EXPECT_THAT(error_of("{\"run\": {\"dir\": \"a\\u0000b\"}}"), HasSubstr("control characters"));
}

TEST(LoadRunConfig, NumbersBeyondTheirTypeAreErrors) {
  EXPECT_THAT(error_of(R"({"checkpoint": {"keep": 3000000000}})"), HasSubstr("checkpoint.keep = 3000000000: must be"));
  EXPECT_THAT(error_of(R"({"run": {"seed": 18446744073709551616}})"), HasSubstr("run.seed = "));
  EXPECT_THAT(error_of(R"({"run": {"seed": -1}})"), HasSubstr("run.seed = -1: must be an integer of at least 0"));
  EXPECT_THAT(error_of(R"({"train": {"steps": 1e300}})"), HasSubstr("train.steps = 1e+300: must be"));
}

TEST(LoadRunConfig, UnknownVersionsAndRepeatedKeysAreErrors) {
  EXPECT_THAT(error_of(R"({"version": 2})"), HasSubstr("version = 2: must be 1"));
  EXPECT_THAT(error_of("{\"lr\": {\"peak\": 1, \"peak\": 2},\n\"train\": {\"steps\": 0}}"),
              ::testing::AllOf(HasSubstr("run.json:1: the key \"peak\" appears twice"), HasSubstr("train.steps = 0")));
  EXPECT_THAT(error_of("[]"), HasSubstr("run.json:1: the configuration = []: must be an object"));
  EXPECT_THAT(error_of("{\n\"train\": 3}"), HasSubstr("run.json:2: train = 3: must be an object"));
  EXPECT_THAT(error_of("{\"train\": {\n\"steps\": 3,}}"), HasSubstr("run.json:2:12: syntax error"));
}

TEST(LoadRunConfig, SetOverridesTheFileAndTheLastOneWins) {
  const RunConfig c =
      load_text(R"({"train": {"steps": 10}, "precision": {"cycles": 2}})",
                {"train.steps=20", "quant.widths=[4,8,32]", "precision.min_bits=4", "run.dir=a=b c", "train.steps=30",
                 "quant.overrides=[{\"layers\":\"h.1.*\",\"weight_bits\":8}]", "lora={\"rank\": 4}"})
          .config;
  EXPECT_EQ(c.train.steps, 30);
  EXPECT_EQ(c.precision.cycles, 2);
  EXPECT_EQ(c.quant.widths, (std::vector<int>{4, 8, 32}));
  EXPECT_EQ(c.run.dir, "a=b c");
  EXPECT_EQ(c.quant.overrides.at(0).layers, "h.1.*");
  EXPECT_EQ(c.lora.rank, 4);
}

TEST(LoadRunConfig, SetGivesTextKeysWhateverIsWritten) {
  const RunConfig c = load_sets({"run.dir=2024", "run.resume=true", "precision.phase=full"}).config;
  EXPECT_EQ(c.run.dir, "2024");
  EXPECT_EQ(c.run.resume, "true");
  EXPECT_EQ(c.precision.phase, CyclePhase::kFull);
  EXPECT_EQ(load_sets({"run.dir=\"quoted\""}).config.run.dir, "quoted");
}

TEST(LoadRunConfig, SetErrorsNameTheKeyAndTheNearest) {
  EXPECT_EQ(
      error_of("{}", {"train.steps=abc", "train.stps=3", "steps", "quant.widths=[4,", "run.dir=\xFF"}),
      "the configuration has errors:\n"
      "  --set steps: must have the form key=value, such as train.steps=100\n"
      "  --set: train.steps = \"abc\": must be an integer from 1 to 1000000000\n"
      "  --set: train.stps: unknown key; did you mean \"train.steps\"?\n"
      "  --set: quant.widths = \"[4,\": must be a list of widths, each 1..18 or 32, no two equal, not empty\n"
      "  --set: run.dir = \"\xEF\xBF\xBD\": must be text, not empty (it has control characters, or is not UTF-8)");
  EXPECT_THAT(error_of("{}", {"a" + std::string(100000, '.') + "=1"}), HasSubstr("unknown key"));
}

TEST(LoadRunConfig, APresetFillsTheSizesThatAreNotGiven) {
  const std::string file = R"({"model": {"n_layer": 7, "preset": "gpt2-medium"}})";
  LoadResult r = load_text(file);
  EXPECT_EQ(r.config.model.n_layer, 7);
  EXPECT_EQ(r.config.model.n_embd, 1024);
  EXPECT_EQ(r.config.model.n_head, 16);
  EXPECT_EQ(r.origins.at("model.n_embd").text(), "preset gpt2-medium");
  EXPECT_EQ(r.origins.at("model.n_layer").text(), "run.json:1");
  r = load_text(file, {"model.n_head=2", "model.preset=micro"});  // a preset from --set replaces the file's sizes
  EXPECT_EQ(r.config.model.n_layer, 4);
  EXPECT_EQ(r.config.model.n_head, 2);
  EXPECT_EQ(r.config.model.vocab_size, 257);
}

TEST(LoadRunConfig, ReadsFilesFromPathsWithSpacesAndUtf8) {
  const auto folder = std::filesystem::temp_directory_path() / ("qat config ä€ " + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  const auto path = folder / "läuft gut.json";
  std::ofstream(path) << "\xEF\xBB\xBF{\"train\": {\"steps\": 77}}";  // with a byte order mark, as some editors write
  EXPECT_EQ(load_run_config(path, {}).config.train.steps, 77);
  std::ofstream(path) << "{\"train\": {\"steps\": 0}}";
  try {
    load_run_config(path, {});
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("läuft gut.json:1: train.steps = 0"));
  }
  for (const auto& bad : {folder, folder / "missing.json"}) {
    try {
      load_run_config(bad, {});
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kConfig);
      EXPECT_THAT(error.what(), HasSubstr(bad.string()));
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(LoadRunConfig, ManyErrorsAreCountedNotListed) {
  std::string text = "{";
  for (int i = 0; i < 20000; ++i) text += "\"key" + std::to_string(i) + "\": 1,";
  text.back() = '}';
  const std::string message = error_of(text);
  EXPECT_THAT(message, HasSubstr("... and 19950 more"));
  EXPECT_LT(message.size(), 20000U);
}

// Nothing but Error(kConfig) may come out, whatever goes in; error_of checks the kind.
TEST(LoadRunConfig, SurvivesTruncatedAndMutatedFiles) {
  const std::string text = testing::read_text(testing::source_folder() / "configs" / "cpt.json");
  ASSERT_EQ(error_of(text), "");
  for (std::size_t length = 0; length + 2 < text.size(); ++length) EXPECT_NE(error_of(text.substr(0, length)), "");
  std::mt19937 random(11);  // its raw output is the same everywhere
  const std::string pool = text + "{}[]\",:-0.1e9null true\\u0000\xFF\x01" + R"("overrides": [{"layers": "*["}])";
  int refused = 0;
  constexpr int kRounds = 3000;
  for (int round = 0; round < kRounds; ++round) {
    std::string mutated = text;
    for (unsigned edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % mutated.size();
      switch (random() % 4) {
        case 0:
          mutated[at] = static_cast<char>(random());
          break;
        case 1:
          mutated.erase(at, 1 + random() % 20);
          break;
        case 2:
          mutated.replace(at, 1, std::to_string(std::uint64_t{random()} * random()));
          break;
        default:
          mutated.insert(at, pool.substr(random() % pool.size(), random() % 30));
          break;
      }
    }
    const std::string message = error_of(mutated);
    EXPECT_TRUE(is_utf8(message)) << mutated;
    refused += message.empty() ? 0 : 1;
  }
  EXPECT_GT(refused, kRounds / 2);
  EXPECT_LT(refused, kRounds);
}

TEST(LoadRunConfig, SurvivesRandomSets) {
  std::mt19937 random(12);
  const std::string pool = "train.steps=quant.widths=[4,8]{}\"=.. ,-1e9\xFF\x01null:model.preset=gpt2";
  for (int round = 0; round < 3000; ++round) {
    std::string set;
    for (int part = 0; part < 3; ++part) set += pool.substr(random() % pool.size(), random() % 14);
    EXPECT_TRUE(is_utf8(error_of("{}", {set}))) << set;
  }
}

}  // namespace
}  // namespace qat

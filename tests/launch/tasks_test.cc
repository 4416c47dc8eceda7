// Tasks of several answers, as `qat_dist eval --tasks` scores them.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

constexpr const char* kShort = "--set train.steps=4 --set precision.cycles=1 --set eval.max_tokens=300";

class Tasks : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    const Outcome run = shell(program() + tiny("run", kShort));
    ASSERT_EQ(run.exit_code, 0) << run.text;
    std::string boolq, winogrande;
    for (int i = 0; i < 7; ++i) {
      boolq += R"({"question": "is )" + std::to_string(i) + R"( even", "passage": "Some are.", "answer": )" +
               (i % 2 == 0 ? "true" : "false") + "}\n";
      winogrande += R"({"sentence": "A is )" + std::string(static_cast<std::size_t>(i), 'x') +
                    R"( so _ won.", "option1": "A", "option2": "B", "answer": "1"})" + "\n";
    }
    fs::create_directories(root_ / "tasks");
    write("tasks/boolq.jsonl", boolq);
    write("tasks/wino.jsonl", winogrande);
  }
  std::string eval(const std::string& more, int ranks = 1) const {
    return (ranks == 1 ? program() : on_ranks(ranks)) + " eval --checkpoint " + quote((root_ / "run").string()) + " " +
           more;
  }
  std::string folder() const { return quote((root_ / "tasks").string()); }
  std::string at(const std::string& name) const { return quote((root_ / name).string()); }
};

TEST_F(Tasks, AreScoredAtEveryWidthAlikeOnAnyNumberOfRanks) {
  const std::string what = "--bits 32,4 --config-name 4-8-8 --tasks " + folder();
  const Outcome one = shell(eval(what + " --items " + at("one.jsonl") + " --output " + at("out")));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  EXPECT_THAT(one.text, AllOf(HasSubstr("boolq"), HasSubstr("wino"), HasSubstr("Avg"), Not(HasSubstr("Perplexity"))));
  const std::string items = content(root_ / "one.jsonl");
  EXPECT_EQ(count(items, "\n"), 3U * 14U);
  EXPECT_THAT(items, HasSubstr("Some are.\\nQuestion: is 0 even?\\nAnswer:"));
  EXPECT_THAT(content(root_ / "out/report.json"), AllOf(HasSubstr("\"zero_shot\""), HasSubstr("\"items\": 7")));
  for (const char* file : {"tables.txt", "tables.tex", "report.md"})
    EXPECT_THAT(content(root_ / "out" / file), HasSubstr("wino"));
  for (const int ranks : {3, 4}) {
    const Outcome more = shell(eval(what + " --items " + at("more.jsonl"), ranks));
    ASSERT_EQ(more.exit_code, 0) << more.text;
    EXPECT_EQ(content(root_ / "more.jsonl"), items) << ranks;
  }
}

TEST_F(Tasks, ABadTaskCostsTheOthersNothingButTheExitCode) {
  write("tasks/broken.jsonl", R"({"goal": "a", "sol1": "b", "sol2": "c", "label": 5})");
  for (const int ranks : {1, 2}) {
    const Outcome got =
        shell(eval("--bits 32 --tasks " + folder() + " lost=" + at("none.jsonl") + " --output " + at("out"), ranks));
    EXPECT_EQ(got.exit_code, 3) << got.text;
    EXPECT_THAT(got.text, AllOf(HasSubstr("broken.jsonl:1: \"label\": expected a number from 0 to 1, found 5"),
                                HasSubstr("none.jsonl"), HasSubstr("without a result:")));
    const std::string report = content(root_ / "out/report.json");
    EXPECT_THAT(report, AllOf(HasSubstr("\"wino\""), HasSubstr("\"accuracy\""), HasSubstr("\"error\"")));
    fs::remove_all(root_ / "out");
  }
}

TEST_F(Tasks, TheHeldOutTextIsScoredIfItIsAskedFor) {
  const Outcome got = shell(eval("--bits 32 --limit 2 --held-out --tasks " + folder()));
  EXPECT_EQ(got.exit_code, 0) << got.text;
  EXPECT_THAT(got.text, AllOf(HasSubstr("Perplexity"), HasSubstr("boolq")));
}

TEST_F(Tasks, TextsAreScoredByThemselvesAndComparedWithABaseline) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "the quick brown fox " + std::to_string(i) + " jumps. ";
  const std::string what =
      "--bits 32,4 --token-accuracy --set eval.stride=16 --text mine=" + quote(write("a b.txt", text)) +
      " lost=" + at("none.txt");
  const Outcome got = shell(eval(what + " --insights --output " + at("out")));
  EXPECT_EQ(got.exit_code, 3) << got.text;
  EXPECT_THAT(got.text, AllOf(HasSubstr("mine: " + std::to_string(text.size() - 1) + " tokens scored"),
                              HasSubstr("16 apart"), HasSubstr("mine top-5"), HasSubstr("Change from 32"),
                              HasSubstr("What stands out"), HasSubstr("no perplexity of lost")));
  const std::string report = content(root_ / "out/report.json");
  EXPECT_THAT(report, AllOf(HasSubstr("\"mine\": "), HasSubstr("\"lost\": null"), HasSubstr("\"top_5_accuracy\"")));
  const std::string good = "--bits 32,4 --token-accuracy --text-tokens 200 --text mine=" + at("a b.txt");
  const Outcome alone = shell(eval(good + " --output " + at("out1"))),
                ranks = shell(eval(good + " --output " + at("out3"), 3));
  EXPECT_EQ(alone.exit_code, 0) << alone.text;
  EXPECT_THAT(alone.text, HasSubstr("mine: 199 tokens scored"));
  EXPECT_EQ(content(root_ / "out3/report.json"), content(root_ / "out1/report.json")) << ranks.text;
  EXPECT_THAT(shell(eval("--bits 32 --quick --text " + at("a b.txt"))).text, HasSubstr("quick: its beginning"));
}

TEST_F(Tasks, FewShotQuestionsHaveTheirExamplesFromAnotherSplit) {
  const auto rows = [](const std::string& what, int count) {
    std::string text;
    for (int i = 0; i < count; ++i) text += what + std::to_string(i) + ",\"a, b\",c,d,e,B\n";
    return text;
  };
  for (const char* folder : {"test", "dev"}) fs::create_directories(root_ / folder);
  write("test/law_test.csv", rows("Is it ", 3)), write("test/physics_test.csv", rows("Is ", 2));
  write("dev/law_dev.csv", rows("Was it ", 2)), write("dev/physics_dev.csv", rows("Was ", 2));
  const std::string what = "--bits 32 --few-shot " + at("test") + " --examples " + at("dev");
  const Outcome got = shell(eval(what + " --shots 1 --items " + at("items.jsonl")));
  EXPECT_EQ(got.exit_code, 0) << got.text;
  EXPECT_THAT(got.text, AllOf(HasSubstr("mmlu Humanities"), HasSubstr("mmlu STEM"), HasSubstr("mmlu Avg")));
  EXPECT_EQ(count(content(root_ / "items.jsonl"), "\n"), 5U);
  const Outcome few = shell(eval(what + " --shots 3"));
  EXPECT_EQ(few.exit_code, 3) << few.text;
  EXPECT_THAT(few.text, HasSubstr("the subject law has 2 examples"));
}

TEST_F(Tasks, SpeedAndDiagnosisAreOfEveryWidth) {
  const Outcome got =
      shell(eval("--bits 32,4 --speed --speed-layers --speed-passes 3 --speed-batch 2 --diagnose --reference " +
                     at("run") + " --output " + at("out"),
                 2));
  EXPECT_EQ(got.exit_code, 0) << got.text;
  EXPECT_THAT(got.text,
              AllOf(HasSubstr("Tokens/s"), HasSubstr("2 sequences of"), HasSubstr("Diagnosis at 32, the baseline"),
                    HasSubstr("Diagnosis at 4\n"), HasSubstr("adapters' effect"), HasSubstr("Perplexity"),
                    HasSubstr("100 % of their values"), HasSubstr("Time of the layers"), HasSubstr("| mlp.c_proj ")));
  EXPECT_THAT(content(root_ / "out/report.json"), AllOf(HasSubstr("\"tokens_per_second\""), HasSubstr("\"p99_ms\""),
                                                        HasSubstr("\"layer\": \"h.0.attn.c_attn\"")));
  EXPECT_THAT(content(root_ / "out/diagnosis.json"), HasSubstr("\"adapter_effect\""));
}

TEST_F(Tasks, WhatDoesNotFitIsRefused) {
  const auto refused = [&](const std::string& more, const std::string& words) {
    const Outcome got = shell(eval(more));
    EXPECT_EQ(got.exit_code, 2) << got.text;
    EXPECT_THAT(got.text, HasSubstr(words));
  };
  refused("--limit 3", "--tasks");
  refused("--tasks " + folder() + " --prompts other", "harness");
  refused("--tasks " + at("run/checkpoints"), "has no .jsonl file");
  refused("--tasks " + folder() + " " + folder(), "two files are called \"boolq\"");
  refused("--bits 32,4 --baseline 8 --tasks " + folder(), "--baseline is \"8\"");
  refused("--bits 32 --speed --speed-length 5000", "--speed-length is 5000");
  const Outcome merges = shell(eval("--tasks " + folder() + " --merges " + at("tasks/wino.jsonl")));
  EXPECT_EQ(merges.exit_code, 3) << merges.text;
  EXPECT_THAT(merges.text, HasSubstr("wino.jsonl"));
}

}  // namespace
}  // namespace qat::cli

// `qat_dist generate`, as a user comes to it.
#include <map>
#include <string>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Generate : public Cli {
 protected:
  static constexpr const char* kShort = "--set train.steps=4 --set precision.cycles=1 --set eval.bits=[32] ";

  void train(const std::string& dir, const std::string& more = "") const {
    const Outcome run = shell(program() + tiny(dir, kShort + more));
    ASSERT_EQ(run.exit_code, 0) << run.text;
  }
  std::string generate(const std::string& dir, const std::string& more) const {
    return " generate " + quote((root_ / dir).string()) + " " + more;
  }
  Outcome run(const std::string& dir, const std::string& more, int ranks = 1) const {
    return shell((ranks == 1 ? program() : on_ranks(ranks)) + generate(dir, more));
  }
  // The file of texts that a run on so many ranks writes.
  std::string texts(const std::string& dir, const std::string& more, int ranks = 1) const {
    const std::string out = (root_ / "texts.jsonl").string();
    const Outcome made = run(dir, more + " --overwrite --out " + quote(out), ranks);
    EXPECT_EQ(made.exit_code, 0) << made.text;
    return content(out);
  }
  // A refusal of exit code `code`, in one message.
  void expect_refused(const std::string& dir, const std::string& more, int code, const std::string& part) const {
    const Outcome refused = run(dir, more);
    EXPECT_EQ(refused.exit_code, code) << refused.text;
    EXPECT_THAT(refused.text, HasSubstr(part));
  }
};

TEST_F(Generate, PrintsTextAndSpeedAndWritesWhatItPrints) {
  train("run");
  const std::string out = (root_ / "texts.jsonl").string();
  const Outcome made =
      run("run", "--prompt 'The ship' --prompt '' --max-new-tokens 12 --bits 8 --ignore-end --out " + quote(out));
  ASSERT_EQ(made.exit_code, 0) << made.text;
  EXPECT_THAT(made.text, AllOf(HasSubstr("[1] 8 + 12 tokens, max_new_tokens\nThe ship"), HasSubstr("[2] 1 + 12 tokens"),
                               HasSubstr("24 new tokens behind 9 of 2 prompts"), HasSubstr("tokens/s"),
                               HasSubstr("at 8 bits, keys and values kept")));
  const std::string lines = content(out);
  EXPECT_EQ(count(lines, "\n"), 2U);
  EXPECT_THAT(lines, AllOf(HasSubstr("{\"prompt\":\"The ship\",\"text\":\""), HasSubstr("\"stop\":\"max_new_tokens\""),
                           HasSubstr("\"prompt_tokens\":8,\"tokens\":[")));
  expect_refused("run", "--prompt x --out " + quote(out), 2, "which is there already");
}

TEST_F(Generate, AtAWidthThatWasNotTrainedWarns) {
  train("run");
  EXPECT_THAT(run("run", "--prompt a --bits 5 --max-new-tokens 2").text,
              HasSubstr("5 bits: weights of 5 bits were not trained; the widths of the run are "));
  EXPECT_THAT(run("run", "--prompt a --bits 4 --max-new-tokens 2").text, Not(HasSubstr("warning")));
}

TEST_F(Generate, TheCacheChangesNoTextAtAnyWidth) {
  train("run");
  const std::string prompts = "--prompt 'The ship was ' --prompt 'He ' --max-new-tokens 20 --ignore-end ";
  for (const std::string at : {"--bits 4", "--bits 8", "", "--bitmap 'attn=8,mlp=4,act=8,kv=8'"}) {
    const std::string with = texts("run", prompts + at);
    EXPECT_EQ(with, texts("run", prompts + at + " --no-cache")) << at;
  }
}

TEST_F(Generate, TextsAreTheSameOnAnyNumberOfRanks) {
  train("run");
  std::string lines;
  for (int i = 0; i < 7; ++i)
    lines += "{\"prompt\": \"Chapter " + std::string(static_cast<std::size_t>(i), 'I') + "\"}\n";
  const std::string more = "--prompts " + quote(write("prompts é.jsonl", lines)) +
                           " --batch-size 2 --max-new-tokens 9 --bits 8 --temperature 1 --top-k 40 --top-p 0.9 ";
  const std::string alone = texts("run", more);
  EXPECT_EQ(count(alone, "\n"), 7U);
  EXPECT_EQ(alone, texts("run", more, 3));
  EXPECT_EQ(alone, texts("run", more + "--seed 1"));
  EXPECT_NE(alone, texts("run", more + "--seed 2"));
}

TEST_F(Generate, EndsWhereItIsToldTo) {
  train("run");
  // What the model says most, after so little training: its own first byte ends the text.
  const std::string whole = texts("run", "--prompt 'The ship' --max-new-tokens 6 --ignore-end");
  const std::size_t at = whole.find("\"text\":\"") + 8;
  const std::string first = whole.substr(at, 1);
  ASSERT_TRUE(first != "\\" && first != "\"") << whole;
  EXPECT_THAT(texts("run", "--prompt 'The ship' --max-new-tokens 6 --stop " + quote(first)),
              AllOf(HasSubstr("\"text\":\"\""), HasSubstr("\"stop\":\"stop\"")));
  EXPECT_THAT(texts("run", "--prompt " + quote(std::string(124, 'x')) + " --ignore-end"),
              HasSubstr("\"stop\":\"n_positions\""));
}

TEST_F(Generate, RefusesWithAMessageThatNamesTheMatter) {
  train("run");
  expect_refused("run", "", 2, "--prompt TEXT");
  expect_refused("run", "--prompt a --prompts b", 2, "given twice");
  expect_refused("run", "--prompt a --top-k 5", 2, "--temperature 1");
  expect_refused("run", "--prompt a --temperature -1", 2, "--temperature");
  expect_refused("run", "--prompt a --top-p 0", 2, "--top-p");
  expect_refused("run", "--prompt a --bits 3.5", 2, "--bits");
  expect_refused("run", "--prompt a --bits 19", 2, "--bits is 19");
  expect_refused("run", "--prompt a --bits 8 --config-name 8-8-8", 2, "give one of them");
  expect_refused("run", "--prompts /nowhere/prompts.txt", 3, "/nowhere/prompts.txt");
  expect_refused("run", "--prompts " + quote(write("bad.jsonl", "{\"prompt\":\"a\"}\n{\"text\":1}\n")), 3,
                 "bad.jsonl, line 2");
  expect_refused("run", "--prompt " + quote(std::string(5000, 'x')), 2, "model.n_positions");
  EXPECT_EQ(shell(program() + " generate " + quote((root_ / "run").string()) + " --prompt a --max-new-tokens 2 --out " +
                  quote((root_ / "new/folder/texts.jsonl").string()))
                .exit_code,
            0);
  EXPECT_THAT(content(root_ / "new/folder/texts.jsonl"), HasSubstr("\"prompt\":\"a\""));
  expect_refused("run", "--prompt a --out /proc/nowhere/texts.jsonl", 2, "/proc/nowhere");
  expect_refused("nowhere", "--prompt a", 4, "nowhere");
  expect_refused("run", "--prompt a --tokenizer gpt2", 2, "needs merges.txt");
  expect_refused("run", "--prompt a --tokenizer gpt2 --merges " + quote(write("merges.txt", "#version: 0.2\nh e\n")), 2,
                 "has 258 ids, and the model 257");
}

TEST_F(Generate, NumbersOutOfBoundsAreSaidInAFewWords) {
  const std::map<std::string, std::string> refused = {
      {"--temperature nan", "--temperature: \"nan\" must be at least 0"},
      {"--temperature inf", "--temperature: \"inf\" must be at least 0, and finite"},
      {"--temperature -1", "--temperature: \"-1\" must be at least 0"},
      {"--top-k -1", "--top-k: \"-1\" must be a whole number from 0"},
      {"--top-p nan", "--top-p: \"nan\" must be from 1e-09 to 1"},
      {"--top-p 1.5", "--top-p: \"1.5\" must be from"},
      {"--repetition-penalty inf", "--repetition-penalty: \"inf\" must be from 0.001 to 1000000000"},
      {"--max-new-tokens 0", "--max-new-tokens: \"0\" must be a whole number from 1"},
      {"--seed 99999999999999999999", "--seed: \"99999999999999999999\" does not fit in 64 bits"},
      {"--bits eight", "--bits: \"eight\" must be a whole number from 0"},
      {"--top-k 1.5", "--top-k: \"1.5\" must be a whole number from 0"},
      {"--seed -1", "--seed: \"-1\" must be a whole number from 0"},
  };
  for (const auto& [option, message] : refused) {  // before the checkpoint is looked for
    const Outcome run = shell(program() + " generate nowhere --prompt x " + option);
    EXPECT_EQ(run.exit_code, 2) << option;
    EXPECT_THAT(run.text, HasSubstr(message));
  }
}

TEST_F(Generate, AModelWhoseInputsShareARangeNeedsAPassOfItsOwnForEachText) {
  train("run", "--set quant.activation.granularity=tensor");
  expect_refused("run", "--prompt a --bits 8", 2, "--no-cache --batch-size 1");
  EXPECT_EQ(count(texts("run", "--prompt a --prompt b --bits 8 --no-cache --batch-size 1 --max-new-tokens 4"), "\n"),
            2U);
  EXPECT_EQ(count(texts("run", "--prompt a --bits 32 --max-new-tokens 4"), "\n"), 1U);
}

// Of files of tokens nobody can tell what made them.
TEST_F(Generate, AsksForTheTokenizerWhereAnotherMayBeMeant) {
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "the quick brown fox number " + std::to_string(i) + " jumps; ";
  const std::string prefix = (root_ / "tok").string();
  const Outcome made =
      shell(program() + " tokenize " + quote(write("my text.txt", text)) + " --output " + quote(prefix));
  ASSERT_EQ(made.exit_code, 0) << made.text;
  train("run", "--set model.vocab_size=300 --set data.train=" + quote("[\"" + prefix + "_train_000.bin\"]") +
                   " --set data.val=" + quote("[\"" + prefix + "_val.bin\"]"));
  expect_refused("run", "--prompt a", 2, "has 257 ids, and the model 300");
  EXPECT_EQ(count(texts("run", "--prompt a --tokenizer byte --max-new-tokens 4"), "\n"), 1U);
}

}  // namespace
}  // namespace qat::cli

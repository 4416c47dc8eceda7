// A model that answers questions, as a user comes to it: files, messages, evaluation, what may be made of its
// checkpoint.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Questions : public Cli {
 protected:
  // A SQuAD file of so many texts, each with a question that it answers and one that it does not.
  std::string squad(const std::string& name, int texts, int first = 0) const {
    std::string text = R"({"version": "v2.0", "data": [{"title": "T", "paragraphs": [)";
    for (int i = first; i < first + texts; ++i) {
      const std::string number = std::to_string(i);
      text += (i == first ? "" : ",\n");
      text += R"({"context": "É. The key of box )" + number + R"( is k)" + number + R"(, and red.", "qas": [)";
      text += R"({"id": "a)" + number +
              R"(", "question": "Which key?", "is_impossible": false, "answers": [{"text": "k)" + number +
              R"(", "answer_start": )" + std::to_string(22 + number.size()) + "}]},";
      text += R"({"id": "b)" + number + R"(", "question": "Which door?", "is_impossible": true, "answers": []}]})";
    }
    return write(name, text + "]}]}");
  }
  std::string asking(const std::string& dir, const std::string& more = "") const {
    return tiny(
        dir,
        "--set model.task=span_qa --set model.vocab_size=257 --set model.n_positions=64 --set "
        "data.sequence_length=64 --set data.question_tokens=16 --set data.window_advance=16 --set train.steps=4 "
        "--set precision.cycles=1 " +
            more);
  }
  std::string files(const std::string& train, const std::string& val) const {
    return " --set data.train=" + quote("[\"" + train + "\"]") + " --set data.val=" + quote("[\"" + val + "\"]") + " ";
  }
};

TEST_F(Questions, OwnFilesAreTrainedOnAndTheCheckpointGivesTheSameTable) {
  const std::string data = files(squad("train é.json", 6), squad("val.json", 3, 6));
  const Outcome one = shell(program() + asking("one", data)), two = shell(on_ranks(2) + asking("two", data));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  ASSERT_EQ(two.exit_code, 0) << two.text;
  EXPECT_THAT(one.text, AllOf(HasSubstr("12 training questions in 12 windows, 6 held-out questions in 6 windows"),
                              HasSubstr("Exact match"), Not(HasSubstr("Perplexity"))));
  EXPECT_EQ(losses("one"), losses("two"));
  EXPECT_EQ(losses("one").size(), 4U);
  const std::string out = (root_ / "out").string();
  const Outcome eval = shell(on_ranks(2) + " eval --checkpoint " + quote((root_ / "one").string()) + " --output " +
                             quote(out) + " --set eval.predictions=true");
  ASSERT_EQ(eval.exit_code, 0) << eval.text;
  const auto table = [](const std::string& report) {
    const std::size_t begin = report.find("## Held-out questions");
    return report.substr(begin, report.find("\n## ", begin) - begin);
  };
  EXPECT_EQ(table(content(root_ / "out/report.md")), table(content(root_ / "one/report.md")));
  EXPECT_THAT(content(root_ / "out/report.json"), HasSubstr("\"questions\": 6"));
  EXPECT_THAT(content(root_ / "out/predictions_4.json"), AllOf(HasSubstr("\"a6\": "), HasSubstr("\"b8\": ")));
  EXPECT_FALSE(fs::exists(root_ / "one/predictions_4.json"));
  // Its questions are others now.
  squad("train é.json", 7);
  const Outcome changed = shell(program() + asking("one", data + "--set train.steps=6"));
  EXPECT_EQ(changed.exit_code, 3) << changed.text;
  EXPECT_THAT(changed.text, HasSubstr("data.train is not what the checkpoint was trained on"));
}

// Answers that a model knows by heart, and the same file with others in their places.
TEST_F(Questions, WhatWasLearnedIsFoundAndWhatWasNotIsNot) {
  const std::string learned = squad("learned.json", 4);
  const Outcome run =
      shell(program() + asking("run", files(learned, learned) + "--set train.steps=250 --set eval.bits=[8]"));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  const auto found = [&](const std::string& file) {
    const std::string out = (root_ / "out").string();
    const Outcome eval = shell(program() + " eval --bits 8,4 --checkpoint " + quote((root_ / "run").string()) +
                               " --output " + quote(out) + " --set data.val=" + quote("[\"" + file + "\"]"));
    EXPECT_EQ(eval.exit_code, 0) << eval.text;
    return content(root_ / "out/report.json");
  };
  const std::string right = found(learned);
  EXPECT_EQ(count(right, "\"exact_match\": 100"), 2U) << right;
  EXPECT_EQ(count(right, "\"f1\": 100"), 2U) << right;
  // The questions with an answer ask for another word of their text, those without one are as before.
  std::string text = content(learned);
  for (std::size_t at = 0; (at = text.find(R"({"text": "k)", at)) != std::string::npos; ++at) {
    const std::size_t end = text.find('}', at);
    text.replace(at, end - at, R"({"text": "red", "answer_start": 31)");
  }
  const std::string wrong = found(write("wrong.json", text));
  EXPECT_EQ(count(wrong, "\"exact_match\": 50"), 2U) << wrong;
}

TEST_F(Questions, AWrongFileIsOneErrorWithTheQuestion) {
  const std::string good = squad("good.json", 2);
  const std::string bad =
      write("bad.json",
            R"({"data": [{"paragraphs": [{"context": "The é is here.", "qas": [{"id": "q5", "question": "Where?",
"answers": [{"text": "here", "answer_start": 10}]}]}]}]})");  // bytes, not characters
  const Outcome outcome = shell(on_ranks(2) + asking("run", files(good, bad)));
  EXPECT_EQ(outcome.exit_code, 3) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("data.val"), HasSubstr("bad.json:2"), HasSubstr("\"q5\""),
                                  HasSubstr("\"here\""), HasSubstr("characters (code points)")));
  EXPECT_EQ(count(outcome.text, "\"q5\""), 1U);
  const Outcome tokens = shell(program() + asking("run", files(good, write("t.json", "[1]"))));
  EXPECT_EQ(tokens.exit_code, 3) << tokens.text;
  EXPECT_THAT(tokens.text, HasSubstr("no SQuAD file"));
}

TEST_F(Questions, KeysThatDoNotFitAreRefusedBeforeAnyWork) {
  const Outcome outcome =
      shell(program() +
            asking("run", "--set data.window_advance=47 --set model.quantize_lm_head=true --set data.tokenizer=gpt2"));
  EXPECT_EQ(outcome.exit_code, 2) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("data.window_advance"), HasSubstr("must not exceed 46"),
                                  HasSubstr("model.quantize_lm_head"), HasSubstr("data.merges"),
                                  HasSubstr("\"byte\" for the built-in questions")));
  const Outcome small =
      shell(program() + asking("run", files(squad("s.json", 1), squad("v.json", 1, 1)) + "--set model.vocab_size=100"));
  EXPECT_EQ(small.exit_code, 2) << small.text;
  EXPECT_THAT(small.text, AllOf(HasSubstr("model.vocab_size = 100"), HasSubstr("at least 257")));
  const Outcome unused = shell(program() + tiny("lm", "--set data.merges=m.txt --set eval.n_best=3 --print-config"));
  EXPECT_EQ(unused.exit_code, 0) << unused.text;
}

TEST_F(Questions, ALanguageModelCanBecomeOneAndItIsNoLanguageModelAnyMore) {
  const std::string sizes =
      "--set model.vocab_size=257 --set model.n_positions=64 --set train.steps=2 --set "
      "precision.cycles=1 --set model.tie_lm_head=false ";
  const Outcome text = shell(program() + tiny("text", sizes));
  ASSERT_EQ(text.exit_code, 0) << text.text;
  const std::string from = (root_ / "text").string();
  const Outcome run = shell(program() + asking("asks",
                                               "--set model.init=checkpoint --set model.freeze_base=true --set "
                                               "model.init_from=" +
                                                   quote(from)));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("initial parameters from"), HasSubstr("(qa_outputs) is not in the checkpoint"),
                              HasSubstr("lm_head.weight")));
  const std::string asks = quote((root_ / "asks").string());
  const Outcome exported =
      shell(program() + " export --checkpoint " + asks + " --output " + quote((root_ / "e").string()));
  EXPECT_EQ(exported.exit_code, 2) << exported.text;
  EXPECT_THAT(exported.text, AllOf(HasSubstr("export"), HasSubstr("answers questions")));
  const Outcome logits =
      shell(program() + " logits --ids 1,2 --checkpoint " + asks + " --output " + quote((root_ / "l").string()));
  EXPECT_EQ(logits.exit_code, 2) << logits.text;
  const Outcome as_text = shell(program() + " eval --checkpoint " + asks + " --set model.task=language_model");
  EXPECT_EQ(as_text.exit_code, 4) << as_text.text;
  EXPECT_THAT(as_text.text, HasSubstr("model.task"));
  const Outcome resumed = shell(program() + tiny("asks", sizes));
  EXPECT_EQ(resumed.exit_code, 4) << resumed.text;
  EXPECT_THAT(resumed.text, HasSubstr("model.task"));
}

TEST_F(Questions, TheConfigurationThatComesWithTheProgramRuns) {
  const Outcome run = shell(on_ranks(2) + " --config " + quote(source_ + "/configs/squad.json") +
                            " --set run.dir=" + quote((root_ / "run").string()) +
                            " --set train.steps=2 --set precision.cycles=1 --set lr.warmup_steps=1");
  EXPECT_EQ(run.exit_code, 0) << run.text;
  EXPECT_THAT(run.text,
              AllOf(HasSubstr("2000 training questions in"), HasSubstr("Exact match"), Not(HasSubstr("warning"))));
}

}  // namespace
}  // namespace qat::cli

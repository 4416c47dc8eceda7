// All that `qat_dist eval` finds has the same bits on any number of ranks: in every file that it writes.
#include <map>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class EvalRanks : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    const Outcome run = shell(program() + tiny("run",
                                               "--set train.steps=30 --set precision.cycles=1 --set "
                                               "eval.max_tokens=700 --set model.n_positions=256"));
    ASSERT_EQ(run.exit_code, 0) << run.text;
    std::string piqa, law, dev, text, trivia, examples, questions;
    for (int i = 0; i < 7; ++i) {
      const std::string n = std::to_string(i);
      piqa += R"({"goal": "to do )" + n + R"(", "sol1": "do it", "sol2": "do not)" + std::string(i, 'x') +
              R"(", "label": )" + std::to_string(i % 2) + "}\n";
      law += "Is it " + n + ",no,yes,maybe,never,B\n";
      dev += "Was it " + n + ",no,yes,maybe,never,C\n";
      text += "the quick brown fox number " + n + " jumps over the lazy dog. ";
      trivia += R"({"question": "Who is )" + n + R"(?", "answer": {"value": "a", "aliases": ["e"]}})" + "\n";
      examples += R"({"question": "What is )" + n + R"(?", "answer": {"value": "b", "aliases": []}})" + "\n";
      questions += (i > 0 ? "," : "") + (R"({"id": ")" + n + R"(", "question": "Who )" + n +
                                         R"(?", "answers": [{"text": "The", "answer_start": 0}]})");
    }
    write("piqa.jsonl", piqa), write("law_test.csv", law), write("law_dev.csv", dev), write("text.txt", text);
    write("trivia.jsonl", trivia), write("examples.jsonl", examples);
    write("squad.json",
          R"({"data": [{"title": "t", "paragraphs": [{"context": "The cat sat.", "qas": [)" + questions + "]}]}]}");
  }
  std::string at(const std::string& name) const { return quote((root_ / name).string()); }
  std::string eval(const std::string& more, int ranks = 1) const {
    return (ranks == 1 ? program() : on_ranks(ranks)) + " eval --checkpoint " + at("run") + " " + more;
  }
  std::map<std::string, std::string> files(const std::string& folder) const {
    std::map<std::string, std::string> all;
    for (const auto& entry : fs::directory_iterator(root_ / folder))
      all[entry.path().filename().string()] = content(entry.path());
    return all;
  }
};

TEST_F(EvalRanks, EveryFileHasTheSameBytes) {
  const std::string what =
      "--bits 32,4 --config-name 4-8-4 --tasks " + at("piqa.jsonl") + " --few-shot " + at("law_test.csv") +
      " --examples " + at("law_dev.csv") + " --shots 2 --text " + at("text.txt") +
      " --token-accuracy --set eval.stride=16 --held-out --squad " + at("squad.json") + " --trivia " +
      at("trivia.jsonl") + " --trivia-examples " + at("examples.jsonl") +
      " --trivia-shots 2 --answer-tokens 6 --answer-batch 2 --robustness --robustness-steps 2 --insights --diagnose";
  std::map<std::string, std::string> one;
  for (const int ranks : {1, 3, 4}) {
    const std::string out = "out" + std::to_string(ranks);
    const Outcome got = shell(eval(what + " --output " + at(out) + " --items " + at(out + ".jsonl"), ranks));
    ASSERT_EQ(got.exit_code, 0) << got.text;
    std::map<std::string, std::string> found = files(out);
    found["items"] = content(root_ / (out + ".jsonl"));
    if (ranks == 1) one = found;
    ASSERT_EQ(found.size(), one.size());
    for (const auto& [name, bytes] : one) EXPECT_TRUE(found[name] == bytes) << name << " on " << ranks << " ranks";
  }
  for (const char* name : {"report.json", "report.md", "report.html", "tables.txt", "tables.tex", "diagnosis.json",
                           "answers_squad_32.json", "answers_trivia_4.json", "items"})
    EXPECT_GT(one[name].size(), 50U) << name;
  EXPECT_THAT(one["report.json"], AllOf(HasSubstr("\"robustness\""), HasSubstr("\"generated_answers\""),
                                        HasSubstr("\"zero_shot\""), HasSubstr("\"top_5_accuracy\"")));
  EXPECT_THAT(one["report.md"], AllOf(HasSubstr("inputs disturbed"), HasSubstr("robustness, a gap of ")));
  for (const char* plot : {"Perplexity by precision", "Accuracy of tasks by precision",
                           "Questions answered by precision", "Next tokens right, with inputs disturbed"})
    EXPECT_EQ(count(one["report.html"], "<h3>" + std::string(plot) + "</h3>"), 1U) << plot;
  EXPECT_THAT(one["report.html"], AllOf(Not(HasSubstr("<script")), Not(HasSubstr("http")), HasSubstr("</html>")));
}

TEST_F(EvalRanks, WhatIsNotToBeReadIsRefusedByName) {
  const auto refused = [&](const std::string& more, int code, const std::string& words) {
    const Outcome got = shell(eval(more));
    EXPECT_EQ(got.exit_code, code) << more << "\n" << got.text;
    EXPECT_THAT(got.text, HasSubstr(words));
  };
  refused("--output " + at("run"), 2, "a run's folder, whose own report would be replaced");
  refused("--bits 32 --text " + quote("x="), 2, "--text is \"x=\": expected a file behind the name");
  refused("--bits 32 --robustness --robustness-rate 2", 2, "--robustness-rate: \"2\" must be from 0 to 1");
  refused("--bits 32 --robustness-steps 2", 2, "--robustness");
  write("wide.txt", std::string("\xFF\xFEh\0e\0l\0l\0o\0", 12));
  refused("--bits 32 --text " + at("wide.txt"), 3, "wide.txt looks like UTF-16 text: make UTF-8 text of it first");
  write("tokens.bin", "abc");
  refused("--bits 32 --text " + at("tokens.bin"), 3, "--text: token file ");
  write("marked.txt", "\xEF\xBB\xBFsome text to be scored");
  const Outcome marked = shell(eval("--bits 32 --text " + at("marked.txt")));
  EXPECT_EQ(marked.exit_code, 0) << marked.text;
  EXPECT_THAT(marked.text, AllOf(HasSubstr("begins with a byte order mark"), HasSubstr("24 tokens scored")));
}

}  // namespace
}  // namespace qat::cli

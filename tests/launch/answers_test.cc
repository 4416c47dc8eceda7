// Questions that `qat_dist eval` lets a language model answer in its own words.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Answers : public Cli {
 protected:
  void train(const std::string& dir, const std::string& more = "") const {
    const Outcome run =
        shell(program() + tiny(dir, "--set train.steps=4 --set precision.cycles=1 --set eval.bits=[32] " + more));
    ASSERT_EQ(run.exit_code, 0) << run.text;
  }
  Outcome eval(const std::string& dir, const std::string& more, int ranks = 1) const {
    return shell((ranks == 1 ? program() : on_ranks(ranks)) + " eval --checkpoint " + quote((root_ / dir).string()) +
                 " --set eval.max_tokens=64 " + more);
  }
  std::string squad() const {
    std::string text = R"({"version": "1.1", "data": [{"title": "T", "paragraphs": [)";
    for (int i = 0; i < 7; ++i) {
      const std::string number = std::to_string(i);
      text += (i == 0 ? "" : ",\n");
      text += R"({"context": "The key of box )" + number + " is red" +
              std::string(static_cast<std::size_t>(i) * 20, '.') + R"(", "qas": [{"id": "q)" + number +
              R"(", "question": "Which key?", "answers": [{"text": "red", )" + R"("answer_start": )" +
              std::to_string(19 + number.size()) + "}]}]}";
    }
    return write("squad é.json", text + "]}]}");
  }
  static std::string table(const std::string& text) { return text.substr(text.find("Exact match")); }
};

TEST_F(Answers, AreScoredAtEveryWidthAndTheSameOnAnyNumberOfRanks) {
  train("run");
  const std::string out = (root_ / "out").string();
  const std::string more = "--bits 32,8 --answer-tokens 8 --answer-batch 2 --squad " + quote(squad());
  const Outcome one = eval("run", more + " --output " + quote(out));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  EXPECT_THAT(one.text, AllOf(HasSubstr("| squad |"), HasSubstr("F1 |"), HasSubstr("Shortened")));
  const std::string report = content(fs::path(out) / "report.json");
  EXPECT_THAT(report, AllOf(HasSubstr("\"generated_answers\""), HasSubstr("\"task\": \"squad\""), HasSubstr("\"f1\"")));
  EXPECT_THAT(content(fs::path(out) / "report.md"), HasSubstr("squad at 8 bits"));
  EXPECT_EQ(count(content(fs::path(out) / "answers_squad_8.json"), "\n"), 9U);
  const Outcome three = eval("run", more, 3);
  ASSERT_EQ(three.exit_code, 0) << three.text;
  EXPECT_EQ(table(one.text), table(three.text));
}

TEST_F(Answers, OfTriviaHaveExamplesOfAnotherFile) {
  train("run");
  const std::string questions = write("q.jsonl", R"({"question": "Who?", "answer": {"value": "Ann", "aliases": []}})");
  const std::string more = "--bits 8 --answer-tokens 8 --trivia " + quote(questions);
  const Outcome made = eval("run", more + " --trivia-shots 1 --trivia-examples " + quote(questions));
  ASSERT_EQ(made.exit_code, 0) << made.text;
  EXPECT_THAT(made.text, AllOf(HasSubstr("| trivia |"), HasSubstr("| Contains"), Not(HasSubstr("F1"))));
  const Outcome refused = eval("run", more);
  EXPECT_EQ(refused.exit_code, 2) << refused.text;
  EXPECT_THAT(refused.text, HasSubstr("--trivia-examples"));
}

TEST_F(Answers, SayWhatIsInTheirWay) {
  train("run");
  const auto refused = [&](const std::string& more, int code, const std::string& part) {
    const Outcome outcome = eval("run", more);
    EXPECT_EQ(outcome.exit_code, code) << outcome.text;
    EXPECT_THAT(outcome.text, HasSubstr(part));
  };
  refused("--squad /nowhere/dev.json", 3, "/nowhere/dev.json");
  refused("--squad " + quote(squad()) + " --answer-tokens 5000", 2, "model.n_positions");
  refused("--squad " + quote(squad()) + " --answer-tokens 100", 3, "without its context");
  refused("--squad " + quote(write("bad.json", "[]")), 3, "bad.json");
}

}  // namespace
}  // namespace qat::cli

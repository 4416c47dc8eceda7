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
  EXPECT_THAT(one.text,
              AllOf(HasSubstr("| squad |"), HasSubstr("F1 |"), HasSubstr("Shortened"), Not(HasSubstr("erplexity"))));
  const std::string report = content(fs::path(out) / "report.json");
  EXPECT_THAT(report, AllOf(HasSubstr("\"generated_answers\""), HasSubstr("\"task\": \"squad\""), HasSubstr("\"f1\"")));
  EXPECT_THAT(content(fs::path(out) / "report.md"), HasSubstr("squad at 8 bits"));
  EXPECT_EQ(count(content(fs::path(out) / "answers_squad_8.json"), "\n"), 9U);
  const Outcome three = eval("run", more, 3);
  ASSERT_EQ(three.exit_code, 0) << three.text;
  EXPECT_EQ(table(one.text), table(three.text));
}

// Four texts of two questions each, in the form of the prompt, one after the other at distances of `kLength` bytes; and
// the same as SQuAD's file, whose answers may be other ones: what the model has learned is then wrong, or half right.
class LearnedAnswers : public Answers {
 protected:
  static constexpr std::size_t kLength = 96;
  struct Box {
    std::string colour, owner;
  };
  static std::vector<Box> boxes() {
    return {{"red", "Ann"}, {"dark blue", "Bob"}, {"green", "Eve"}, {"yellow", "Tom"}};
  }
  static std::string context(std::size_t box) {
    return "Box " + std::to_string(box) + " is " + boxes()[box].colour + ", of " + boxes()[box].owner + ".";
  }
  static std::string document(std::size_t box, const std::string& question, const std::string& answer) {
    std::string text = "Reading:\"" + context(box) + "\"\n\nQuestion:\"" + question + "\"\n\nAnswer: " + answer;
    EXPECT_LT(text.size(), kLength);
    return text + std::string(kLength - text.size(), '\n');
  }
  static std::string lessons() {
    std::string text;
    for (std::size_t i = 0; i < boxes().size(); ++i)
      text += document(i, "What colour?", boxes()[i].colour) + document(i, "Whose?", boxes()[i].owner);
    return text;
  }
  // Answers by the questions' ids, "c0" and "o0", where they are not what the texts say; each a part of its text.
  std::string squad(const std::string& name, const std::map<std::string, std::string>& others = {}) const {
    std::string text = R"({"version": "1.1", "data": [{"title": "T", "paragraphs": [)";
    for (std::size_t i = 0; i < boxes().size(); ++i) {
      const auto question = [&](const std::string& id, const std::string& words, const std::string& learned) {
        const auto other = others.find(id);
        const std::string right = other == others.end() ? learned : other->second;
        return R"({"id": ")" + id + R"(", "question": ")" + words + R"(", "answers": [{"text": ")" + right +
               R"(", "answer_start": )" + std::to_string(context(i).find(right)) + "}]}";
      };
      text += (i == 0 ? "" : ",\n") + std::string(R"({"context": ")") + context(i) + R"(", "qas": [)" +
              question("c" + std::to_string(i), "What colour?", boxes()[i].colour) + ", " +
              question("o" + std::to_string(i), "Whose?", boxes()[i].owner) + "]}";
    }
    return write(name, text + "]}]}");
  }
  // The table's line of a task and a width, without its blanks.
  static std::string row(const std::string& text, const std::string& start) {
    std::string squeezed;
    for (const char c : text)
      if (c != ' ') squeezed += c;
    const std::size_t at = squeezed.find(start);
    return at == std::string::npos ? squeezed : squeezed.substr(at, squeezed.find('\n', at) - at);
  }
};

TEST_F(LearnedAnswers, AreRightAndOfOtherAnswersAsManyAsAreTheSame) {
  // The text's end of text stands before it, and the byte behind it makes room for both places that a window may have.
  const std::string text = write("lessons.txt", lessons() + "R"), tokens = (root_ / "tokens").string();
  ASSERT_EQ(shell(program() + " tokenize " + quote(text) + " --val-fraction 0 -o " + quote(tokens)).exit_code, 0);
  const std::string shard = "'[\"" + tokens + "_train_000.bin\"]'";
  const Outcome run = shell(program() + tiny("run", "--set data.train=" + shard + " --set data.val=" + shard +
                                                        " --set model.vocab_size=257 --set model.n_positions=128 "
                                                        "--set data.sequence_length=96 --set precision.cycles=1 "
                                                        "--set train.steps=260 --set eval.bits=[8]"));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  const auto answers = [&](const std::string& file, int ranks) {
    return eval("run", "--bits 8,4 --answer-tokens 16 --answer-batch 3 --squad " + quote(file), ranks).text;
  };
  const std::string learned = answers(squad("learned.json"), 1);
  EXPECT_EQ(row(learned, "|squad|8|"), "|squad|8|8|0|100.00|100.00|") << learned;
  EXPECT_EQ(row(learned, "|squad|4|"), "|squad|4|8|0|100.00|100.00|") << learned;
  // "Box 0" has no word of "Ann". Of "blue", "dark blue" has both words less one: F1 is 2/3.
  const std::string others = squad("others.json", {{"o0", "Box 0"}, {"c1", "blue"}});
  for (const int ranks : {1, 3}) {
    const std::string found = answers(others, ranks);
    EXPECT_EQ(row(found, "|squad|8|"), "|squad|8|8|0|75.00|83.33|") << found;
  }
}

TEST_F(Answers, OfTriviaHaveExamplesOfAnotherFile) {
  train("run");
  const std::string questions = write("q.jsonl", R"({"question": "Who?", "answer": {"value": "Ann", "aliases": []}})");
  const std::string others = write("e.jsonl", R"({"question": "Where?", "answer": {"value": "Rome", "aliases": []}})");
  const std::string more = "--bits 8 --answer-tokens 8 --trivia " + quote(questions);
  const Outcome made = eval("run", more + " --trivia-shots 1 --trivia-examples " + quote(others));
  ASSERT_EQ(made.exit_code, 0) << made.text;
  const Outcome own = eval("run", more + " --trivia-shots 1 --trivia-examples " + quote(questions));
  EXPECT_EQ(own.exit_code, 3) << own.text;
  EXPECT_THAT(own.text, HasSubstr("there are 0 examples that are not asked themselves"));
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

TEST_F(Answers, ATaskThatIsNotToBeReadCostsTheOtherNothingButTheExitCode) {
  train("run");
  const std::string out = (root_ / "out").string();
  const Outcome got =
      eval("run", "--bits 8 --answer-tokens 4 --squad " + quote(squad()) + " --trivia /nowhere/t.json " +
                      "--trivia-examples /nowhere/e.json --output " + quote(out));
  EXPECT_EQ(got.exit_code, 3) << got.text;
  EXPECT_THAT(got.text, AllOf(HasSubstr("| squad "), HasSubstr("| trivia |   - |"), HasSubstr("no result of trivia: "),
                              HasSubstr("without a result:\n  trivia: ")));
  EXPECT_THAT(content(out + "/report.json"), AllOf(HasSubstr("\"exact_match\""), HasSubstr("\"error\"")));
}

}  // namespace
}  // namespace qat::cli

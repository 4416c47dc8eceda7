#include "src/data/few_shot_task.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>
#include <functional>

#include "kernels/common/error.h"
#include "src/data/csv.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    return error.what();
  }
  return "no error";
}

TEST(Csv, FieldsInQuotesHoldWhatOthersCannot) {
  const std::vector<CsvRow> rows = parse_csv("a,\"b, \"\"c\"\"\nd\",\r\n\n,x", "s");
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_THAT(rows[0].fields, ElementsAre("a", "b, \"c\"\nd", ""));
  EXPECT_THAT(rows[1].fields, ElementsAre("", "x"));
  EXPECT_EQ(rows[1].line, 4);
  EXPECT_THAT(error_of([] { (void)parse_csv("a\n\"b", "s"); }), HasSubstr("s:2: a quote begins"));
  EXPECT_THAT(error_of([] { (void)parse_csv("a\"b", "s"); }), HasSubstr("s:1: a quote stands"));
  EXPECT_THAT(error_of([] { (void)parse_csv("\"a\"b", "s"); }), HasSubstr("s:1: expected a comma"));
}

class SubjectFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("few_shot_" + std::to_string(getpid()));
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return (folder_ / name).string();
  }
  std::filesystem::path folder_;
};

TEST_F(SubjectFiles, AreReadAsPublished) {
  const auto csv =
      read_subject_questions({write("world_history_test.csv", "\"When, then?\",1,2,3,4,C\nWho?,a,b,c,d, A \n")});
  ASSERT_EQ(csv.size(), 2U);
  EXPECT_EQ(csv[0].subject, "world_history");
  EXPECT_EQ(csv[0].question, "When, then?");
  EXPECT_EQ(csv[0].right, 2U);
  EXPECT_EQ(csv[1].right, 0U);
  const auto json = read_subject_questions({write(
      "all.jsonl", R"({"question": "Q", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 3})")});
  EXPECT_THAT(json[0].answers, ElementsAre("a", "b", "c", "d"));
  EXPECT_EQ(json[0].right, 3U);
}

TEST_F(SubjectFiles, BadRowsAreNamed) {
  const auto error = [&](const std::string& name, const std::string& text) {
    return error_of([&] { (void)read_subject_questions({write(name, text)}); });
  };
  EXPECT_THAT(error("law_test.csv", "Q,a,b,c,d,A\nQ,a,b,c,A\n"),
              AllOf(HasSubstr("law_test.csv:2"), HasSubstr("found 5")));
  EXPECT_THAT(error("law_test.csv", "Q,a,b,c,d,E\n"), HasSubstr("expected A, B, C or D, found \"E\""));
  EXPECT_THAT(error("law.csv", "Q,a,b,c,d,A\n"), HasSubstr("<subject>_test.csv"));
  EXPECT_THAT(error("law_test.csv", ""), HasSubstr("has no questions"));
  EXPECT_THAT(error("a.jsonl", R"({"question": "Q", "subject": "s", "choices": ["a", "b", "c"], "answer": 0})"),
              HasSubstr("\"choices\": expected a list of at least 4 texts"));
}

SubjectQuestion question(const std::string& subject, const std::string& text, std::size_t right) {
  return {.file = subject + ".csv",
          .line = 1,
          .subject = subject,
          .question = text,
          .answers = {"w", "x", "y", "z"},
          .right = right};
}

TEST(FewShotTask, PutsExamplesOfTheSubjectBeforeEveryQuestion) {
  const std::vector<SubjectQuestion> examples = {question("big_law", "E1", 1), question("virology", "E3", 0),
                                                 question("big_law", "Q", 2), question("big_law", "E2", 3)};
  const std::vector<SubjectQuestion> questions = {question("big_law", "Q", 2), question("big_law", "R", 0)};
  const ChoiceTask task = few_shot_task("mmlu", questions, examples, 2, PromptStyle::kHarness, 1);
  ASSERT_EQ(task.items.size(), 1U);
  EXPECT_EQ(task.items[0].group, "Humanities");
  EXPECT_EQ(task.items[0].answer, 2U);
  const std::string body = "\nA. w\nB. x\nC. y\nD. z\nAnswer:";
  // The example that is scored itself is passed over.
  EXPECT_EQ(task.items[0].choices[1],
            (Choice{"The following are multiple choice questions (with answers) about big law.\n\nE1" + body +
                        " B\n\nE2" + body + " D\n\nQ" + body,
                    " B"}));
  const ChoiceTask plain = few_shot_task("mmlu", questions, examples, 0, PromptStyle::kPlain, 0);
  EXPECT_EQ(plain.items.size(), 2U);
  EXPECT_EQ(plain.items[1].choices[0].context, "Question: R" + body);
  EXPECT_THAT(error_of([&] { (void)few_shot_task("mmlu", questions, examples, 3, PromptStyle::kPlain, 0); }),
              AllOf(HasSubstr("big_law has 2 examples"), HasSubstr("at least 3"), Not(HasSubstr("virology"))));
}

TEST(SubjectCategory, GoesByTheWordsOfASubject) {
  EXPECT_EQ(subject_category("high_school_world_history"), "Humanities");
  EXPECT_EQ(subject_category("college_computer_science"), "STEM");
  EXPECT_EQ(subject_category("high_school_government_and_politics"), "Social");
  EXPECT_EQ(subject_category("virology"), "Other");
}

}  // namespace
}  // namespace qat

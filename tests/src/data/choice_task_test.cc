#include "src/data/choice_task.h"

#include <gmock/gmock.h>

#include <filesystem>
#include <fstream>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class ChoiceTaskFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = (std::filesystem::temp_directory_path() / ("choice_task_" + std::to_string(getpid()) + ".jsonl")).string();
  }
  void TearDown() override { std::filesystem::remove(path_); }

  ChoiceTask read(const std::string& text, PromptStyle style = PromptStyle::kHarness, std::int64_t limit = 0) {
    std::ofstream(path_, std::ios::binary) << text;
    return read_choice_task("mine", path_, style, limit);
  }
  ChoiceItem item(const std::string& text, PromptStyle style = PromptStyle::kHarness) {
    const ChoiceTask task = read(text, style);
    EXPECT_EQ(task.items.size(), 1U);
    return task.items.at(0);
  }
  std::string error(const std::string& text) {
    try {
      (void)read(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      return error.what();
    }
    return "no error";
  }
  std::string path_;
};

constexpr const char* kBoolQ = R"({"question": "is it hot", "passage": "It is hot.", "answer": true})";

TEST_F(ChoiceTaskFile, BoolQAsksForYesOrNo) {
  const ChoiceItem got = item(kBoolQ);
  EXPECT_THAT(got.choices, ElementsAre(Choice{"It is hot.\nQuestion: is it hot?\nAnswer:", " no"},
                                       Choice{"It is hot.\nQuestion: is it hot?\nAnswer:", " yes"}));
  EXPECT_EQ(got.answer, 1U);
  const ChoiceItem plain = item(kBoolQ, PromptStyle::kPlain);
  EXPECT_THAT(plain.choices, ElementsAre(Choice{"Passage: It is hot....\nQuestion: is it hot\nAnswer:", " True"},
                                         Choice{"Passage: It is hot....\nQuestion: is it hot\nAnswer:", " False"}));
  EXPECT_EQ(plain.answer, 0U);
}

TEST_F(ChoiceTaskFile, HellaSwagLosesWhatWikiHowLeft) {
  const ChoiceItem got = item(R"({"ctx": "Cooking: Boil. [title] Then [step]  stir [a ", "endings": [" it ", "x  y"],)"
                              R"( "label": "1"})");
  EXPECT_THAT(got.choices, ElementsAre(Choice{"Cooking: Boil.. Then  stir [a", " it"},
                                       Choice{"Cooking: Boil.. Then  stir [a", " x y"}));
  EXPECT_EQ(got.answer, 1U);
  const ChoiceItem published = item(R"({"activity_label": "Cooking", "ctx_a": "He boils.", "ctx_b": "the Man", )"
                                    R"("ctx": "-", "endings": ["a", "b"], "label": 0})");
  EXPECT_EQ(published.choices[0].context, "Cooking: He boils. The man");
}

TEST_F(ChoiceTaskFile, WinoGrandePutsTheOptionBeforeWhatIsScored) {
  const std::string line =
      R"({"sentence": "Ann beat Bea so _ won.", "option1": "Ann", "option2": "Bea", "answer": "1"})";
  EXPECT_THAT(item(line).choices,
              ElementsAre(Choice{"Ann beat Bea so Ann", " won."}, Choice{"Ann beat Bea so Bea", " won."}));
  EXPECT_THAT(item(line, PromptStyle::kPlain).choices,
              ElementsAre(Choice{"Ann beat Bea so ", "Ann won."}, Choice{"Ann beat Bea so ", "Bea won."}));
  EXPECT_EQ(item(line).answer, 0U);
}

TEST_F(ChoiceTaskFile, ArcAndOpenBookQaFindTheAnswerByItsLabel) {
  const std::string choices =
      R"("choices": {"text": ["red", "blue", "tall"], "label": ["1", "2", "3"]}, "answerKey": "3"})";
  const ChoiceItem arc = item(R"({"question": "Which?", )" + choices);
  EXPECT_EQ(arc.choices[2], (Choice{"Question: Which?\nAnswer:", " tall"}));
  EXPECT_EQ(arc.answer, 2U);
  EXPECT_EQ(item(R"({"question": "Which?", )" + choices, PromptStyle::kPlain).choices[2].text, " 3. tall");
  const ChoiceItem book = item(R"({"question_stem": "The sky is", )" + choices);
  EXPECT_EQ(book.choices[1], (Choice{"The sky is", " blue"}));
}

TEST_F(ChoiceTaskFile, PiqaHasTwoSolutions) {
  const ChoiceItem got = item(R"({"goal": "Open it", "sol1": "pull", "sol2": "push", "label": 1})");
  EXPECT_EQ(got.choices[0], (Choice{"Question: Open it\nAnswer:", " pull"}));
  EXPECT_EQ(got.answer, 1U);
}

TEST_F(ChoiceTaskFile, ReadsTheFirstItemsAndKnowsTheirLines) {
  const ChoiceTask task = read("\n" + std::string(kBoolQ) + "\n  \n" + kBoolQ + "\nnot read", PromptStyle::kHarness, 2);
  ASSERT_EQ(task.items.size(), 2U);
  EXPECT_EQ(task.items[0].line, 2);
  EXPECT_EQ(task.items[1].line, 4);
  EXPECT_EQ(task.kind, ChoiceKind::kBoolQ);
}

TEST_F(ChoiceTaskFile, EveryBadLineIsOneErrorWithItsPlace) {
  const std::string good = std::string(kBoolQ) + "\n";
  const auto in_line = [&](int line) { return HasSubstr(path_ + ":" + std::to_string(line) + ":"); };
  EXPECT_THAT(error(""), HasSubstr("is empty"));
  EXPECT_THAT(error(good + "{\"question\": \"a\"\n"), AllOf(in_line(2), HasSubstr("a JSON object a line")));
  EXPECT_THAT(error(good + "[1]"), AllOf(in_line(2), HasSubstr("expected a JSON object, found [1]")));
  EXPECT_THAT(error(good + R"({"question": "a", "passage": "b", "answer": "yes"})"),
              AllOf(in_line(2), HasSubstr("\"answer\": expected true or false, found \"yes\"")));
  EXPECT_THAT(error(good + R"({"question": " ", "passage": "b", "answer": true})"),
              AllOf(in_line(2), HasSubstr("\"question\": expected text that is not blank")));
  EXPECT_THAT(error(good + R"({"question": "a", "answer": true})"),
              HasSubstr("\"passage\": expected text, found no such"));
  EXPECT_THAT(error(R"({"q": "a", "r": 1})"), AllOf(in_line(1), HasSubstr("keys are q, r"), HasSubstr("winogrande")));
  EXPECT_THAT(error(R"({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"})"),
              HasSubstr("\"sentence\": expected a sentence with one \"_\""));
  EXPECT_THAT(error(R"({"sentence": "a _ gap", "option1": "a", "option2": "b", "answer": "3"})"),
              HasSubstr("\"answer\": expected \"1\" or \"2\""));
  EXPECT_THAT(error(R"({"ctx": "a", "endings": ["b"], "label": 0})"), HasSubstr("a list of at least 2 texts"));
  EXPECT_THAT(error(R"({"ctx": "a", "endings": ["b", "c"], "label": 2})"), HasSubstr("a number from 0 to 1, found 2"));
  EXPECT_THAT(error(R"({"question": "a", "choices": {"text": ["b", "c"], "label": ["A"]}, "answerKey": "A"})"),
              HasSubstr("\"choices.label\": expected a list of at least 2"));
  EXPECT_THAT(error(R"({"question": "a", "choices": {"text": ["b", "c"], "label": ["A", "B"]}, "answerKey": "C"})"),
              HasSubstr("\"answerKey\": expected one of the labels A, B, found \"C\""));
}

TEST(ChoiceBytes, LeaveOutTheBlankBeforeTheText) {
  EXPECT_EQ((Choice{"a", " bcd"}).bytes(), 3);
  EXPECT_EQ((Choice{"a", "bcd"}).bytes(), 3);
  EXPECT_EQ((Choice{"a", " ü"}).bytes(), 2);
  EXPECT_EQ((Choice{"a", " "}).bytes(), 1);
}

}  // namespace
}  // namespace qat

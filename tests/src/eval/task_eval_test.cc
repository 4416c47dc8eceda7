#include "src/eval/task_eval.h"

#include <gmock/gmock.h>

#include <cmath>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::HasSubstr;

ChoiceItem item(const std::vector<std::string>& texts, std::size_t answer, int line = 1) {
  ChoiceItem item{.line = line, .choices = {}, .answer = answer};
  for (const std::string& text : texts) item.choices.push_back({"Q:", " " + text});
  return item;
}

TaskSet two_tasks() {
  TaskSet set;
  const ByteTokenizer tokenizer;
  set.add({.name = "one", .file = "one.jsonl", .items = {item({"aa", "bbbb"}, 1, 1), item({"aa", "b"}, 0, 2)}},
          tokenizer, 20);
  TaskSet other;
  other.add({.name = "two", .kind = ChoiceKind::kArc, .file = "two.jsonl", .items = {item({"a", "b", "c"}, 2, 7)}},
            tokenizer, 20);
  set.append(std::move(other));
  return set;
}

TEST(Likeliest, IsByTheWholeATokenOrAByteAndTheFirstOfEqualOnes) {
  const TaskSet set = two_tasks();
  const ChoiceItem& first = set.tasks()[0].items[0];
  const auto texts = std::span(set.texts()).first(2);
  const std::vector<double> lls = {-3.0, -5.0};  // of 3 and 5 tokens, 2 and 4 bytes
  EXPECT_EQ(likeliest(first, texts, lls, ChoiceRule::kSum), 0U);
  EXPECT_EQ(likeliest(first, texts, lls, ChoiceRule::kToken), 0U);  // equal
  EXPECT_EQ(likeliest(first, texts, lls, ChoiceRule::kByte), 1U);
}

TEST(TaskSet, CountsWhatIsRightTaskByTask) {
  const TaskSet set = two_tasks();
  EXPECT_EQ(set.first_text(1), 4U);
  ASSERT_EQ(set.texts().size(), 7U);
  const std::vector<TaskFigures> figures = set.figures(std::vector<double>{-3, -5, -3, -5, -1, -2, -0.5});
  ASSERT_EQ(figures.size(), 2U);
  EXPECT_EQ(figures[0].by(ChoiceRule::kSum).right, 1);
  EXPECT_EQ(figures[0].by(ChoiceRule::kSum).items, 2);
  EXPECT_EQ(figures[0].by(ChoiceRule::kByte).right, 2);
  EXPECT_EQ(figures[1].task, "two");
  EXPECT_EQ(figures[1].by(ChoiceRule::kSum).right, 1);
  EXPECT_EQ(figures[1].kind, "arc");
  EXPECT_FALSE(figures[1].by(ChoiceRule::kSum).standard_error().has_value());
  EXPECT_NEAR(figures[0].by(ChoiceRule::kSum).standard_error().value(), 0.5, 1e-12);  // sqrt(0.25 / 1)
}

TEST(TaskSet, ALikelihoodThatIsNoNumberIsAnErrorOfItsTaskAlone) {
  const std::vector<TaskFigures> figures = two_tasks().figures(std::vector<double>{-3, -5, NAN, -5, -1, -2, -0.5});
  EXPECT_THAT(figures[0].error, HasSubstr("one.jsonl:2"));
  EXPECT_EQ(figures[1].error, "");
}

TEST(TaskSet, AnAnswerLongerThanTheModelReadsIsNamed) {
  TaskSet set;
  try {
    set.add({.name = "one", .file = "one.jsonl", .items = {item({"a", "much too long"}, 0, 5)}}, ByteTokenizer(), 8);
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.what(), ::testing::AllOf(HasSubstr("one.jsonl:5"), HasSubstr("14 tokens"), HasSubstr("reads 8")));
  }
}

TEST(TaskSet, SaysHowLikelyEveryAnswerWas) {
  const std::string lines = two_tasks().item_lines(std::vector<double>{-3, -5, -3, -5, -1, -2, -0.5}, "8");
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 3);
  EXPECT_THAT(
      lines,
      HasSubstr(R"({"task":"two","file":"two.jsonl","line":7,"bits":"8","answer":2,"choices":[{"context":"Q:",)"));
  EXPECT_THAT(lines, HasSubstr(R"("log_likelihood":-0.5}],"likeliest_by_sum":2)"));
}

}  // namespace
}  // namespace qat

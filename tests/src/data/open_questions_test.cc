#include "src/data/open_questions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/src/data/squad_fixture.h"
#include "tests/support/kernel_data.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::paragraph;
using testing::TemporaryFolder;
using testing::write_text;

TEST(OpenQuestions, OfATextAreAPromptWithTheQuestionAtItsEnd) {
  const TemporaryFolder folder;
  const auto prompts = squad_prompts(read_squad(
      folder, {paragraph("Zinc is grey.", {{"a", "What is grey?", {{"Zinc", 0}, {"grey", 8}}}, {"b", "Who?", {}}})}));
  ASSERT_EQ(prompts.size(), 2U);
  EXPECT_EQ(prompts[0].before + prompts[0].context + prompts[0].after,
            "Reading:\"Zinc is grey.\"\n\nQuestion:\"What is grey?\"\n\nAnswer:");
  EXPECT_THAT(prompts[0].right, ElementsAre("Zinc", "grey"));
  EXPECT_EQ(prompts[1].id, "b");
  EXPECT_THAT(prompts[1].right, IsEmpty());
}

// The end of the text goes, by tokens and by whole characters; the question stays.
TEST(OpenQuestions, ALongTextLosesItsEnd) {
  const OpenQuestion question{.id = "a", .before = "<", .context = "0123456789\xC3\xA9", .after = ">?", .right = {}};
  const ByteTokenizer bytes;
  const auto text = [&](std::size_t most) {
    const PromptTokens prompt = prompt_tokens(question, bytes, most);
    return bytes.decode(prompt.tokens) + (prompt.shortened ? " shortened" : "");
  };
  EXPECT_EQ(text(15), "<0123456789\xC3\xA9>?");
  EXPECT_EQ(text(14), "<0123456789>? shortened") << "no half of a character";
  EXPECT_EQ(text(8), "<01234>? shortened");
  EXPECT_EQ(text(3), "<>? shortened");
  EXPECT_THAT(test::error_of(ErrorKind::kData, [&] { (void)text(2); }),
              AllOf(HasSubstr("question \"a\""), HasSubstr("room for 2")));
}

TEST(OpenQuestions, OfTriviaHaveExamplesBeforeThem) {
  const TemporaryFolder folder;
  const std::string lines = write_text(
      folder.file("a.jsonl"),
      R"({"question": "Who?", "question_id": "q1", "answer": {"value": "Ann", "aliases": ["Anna"]}, "more": 1})"
      "\n\n"
      R"({"question": "Where?", "answer": {"value": "Rome", "aliases": []}})");
  const std::string whole = write_text(
      folder.file("b.json"),
      R"({"Data": [{"Question": "When?", "QuestionId": "q9", "Answer": {"Value": "1801", "Aliases": ["in 1801"]}}]})");
  const auto prompts = trivia_prompts(read_trivia(whole), read_trivia(lines), /*shots=*/2);
  ASSERT_EQ(prompts.size(), 1U);
  EXPECT_EQ(prompts[0].before + prompts[0].context + prompts[0].after,
            "Question: Who?\nAnswer: Ann\n\nQuestion: Where?\nAnswer: Rome\n\nQuestion: When?\nAnswer:");
  EXPECT_THAT(prompts[0].right, ElementsAre("1801", "in 1801"));
  EXPECT_EQ(prompts[0].id, "q9");
  EXPECT_EQ(trivia_prompts(read_trivia(lines), read_trivia(whole), 0)[1].before, "");
  EXPECT_THAT(
      test::error_of(ErrorKind::kData, [&] { (void)trivia_prompts(read_trivia(whole), read_trivia(lines), 3); }),
      HasSubstr("there are 2 examples that are not asked themselves: expected at least 3"));
}

// Whoever gives the questions as the examples, too, does not have the answers in the prompts.
TEST(OpenQuestions, OfTriviaAreNotTheirOwnExamples) {
  const TriviaQuestion who{.id = "1", .question = "Who?", .answer = "Ann", .aliases = {"Ann"}};
  const TriviaQuestion where{.id = "2", .question = "Where?", .answer = "Rome", .aliases = {"Rome"}};
  EXPECT_EQ(trivia_prompts({who}, {who, where}, 1)[0].before, "Question: Where?\nAnswer: Rome\n\n");
  EXPECT_THAT(test::error_of(ErrorKind::kData,
                             [&] {
                               (void)trivia_prompts({who, where}, {who, where}, 1);
                             }),
              HasSubstr("there are 0 examples"));
}

TEST(OpenQuestions, OfTriviaSayWhatIsWrongWithThem) {
  const TemporaryFolder folder;
  const auto error = [&](const std::string& name, const std::string& text) {
    const std::string path = write_text(folder.file(name), text);
    return test::error_of(ErrorKind::kData, [&] { (void)read_trivia(path); });
  };
  EXPECT_THAT(error("a.jsonl", "{\"question\": 1}"), AllOf(HasSubstr("a.jsonl, line 1"), HasSubstr("\"question\"")));
  EXPECT_THAT(error("a.jsonl", "\n{\"question\": \"Who?\"}"),
              AllOf(HasSubstr("line 2"), HasSubstr("\"answer\", an object")));
  EXPECT_THAT(error("a.jsonl", R"({"question": "Who?", "answer": {"value": "x", "aliases": [3]}})"),
              HasSubstr("\"aliases\""));
  EXPECT_THAT(error("a.json", "{\"question\": \"Who?\"}"), HasSubstr("\"Data\""));
  EXPECT_THAT(error("a.json", R"({"Data": [{"Question": "Who?"}]})"), HasSubstr("question 1"));
  EXPECT_THAT(error("a.json", R"({"Data": []})"), HasSubstr("at least one question"));
}

}  // namespace
}  // namespace qat

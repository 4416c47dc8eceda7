#include "src/data/squad_file.h"

#include <gmock/gmock.h>

#include "tests/src/data/squad_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_message;
using ::testing::HasSubstr;
using testing::paragraph;
using testing::read_squad;
using testing::squad_json;
using testing::TemporaryFolder;
using testing::write_text;

TEST(SquadFile, PlacesInCharactersBecomeBytes) {
  const TemporaryFolder folder;
  // Characters of 1, 2, 3 and 4 bytes before the answer, and inside it; long enough for a second mark.
  const std::string before = "Aé€𝄞 " + std::string(70, 'x') + "é ";
  const SquadData data = read_squad(
      folder, {paragraph(before + "Zürich.", {{"q1", "Where?", {{"Zürich", 77}, {"é€", 1}}}}, /*version=*/1)});
  ASSERT_EQ(data.questions.size(), 1U);
  const SquadQuestion& question = data.questions[0];
  EXPECT_EQ(question.id, "q1");
  EXPECT_EQ(question.text, "Where?");
  ASSERT_EQ(question.answers.size(), 2U);
  EXPECT_EQ(question.answers[0], (ByteRange{before.size(), before.size() + 7}));
  EXPECT_EQ(data.answer(question, question.answers[0]), "Zürich");
  EXPECT_EQ(data.answer(question, question.answers[1]), "é€");
  EXPECT_FALSE(data.may_be_unanswerable);
}

TEST(SquadFile, VersionTwoHasQuestionsWithoutAnAnswer) {
  const TemporaryFolder folder;
  const SquadData data = read_squad(
      folder, {paragraph("one", {{"a", "?", {{"one", 0}}}, {"b", "??", {}}}), paragraph("two", {{"c", "?", {}}})});
  EXPECT_TRUE(data.may_be_unanswerable);
  EXPECT_EQ(data.contexts.size(), 2U);
  EXPECT_EQ(data.questions[1].answers.size(), 0U);
  EXPECT_EQ(data.questions[2].context, 1U);
}

TEST(SquadFile, SeveralFilesAreOneSet) {
  const TemporaryFolder folder;
  write_text(folder.file("b.json"), squad_json({paragraph("two", {{"2", "?", {{"two", 0}}}})}));
  write_text(folder.file("a.json"), squad_json({paragraph("one", {{"1", "?", {{"one", 0}}}})}));
  const SquadData data = open_squad({folder.file("*.json")}, "data.train");
  ASSERT_EQ(data.questions.size(), 2U);
  EXPECT_EQ(data.questions[0].id, "1");
  EXPECT_EQ(data.contexts[data.questions[1].context], "two");
  ASSERT_EQ(data.files.size(), 2U);
  EXPECT_EQ(data.files[1].first_question, 1U);
  EXPECT_THAT(error_message(ErrorKind::kData,
                            [&] {
                              open_squad({folder.file("a.json"), folder.file("a.json")}, "data.val");
                            }),
              AllOf(HasSubstr("data.val"), HasSubstr("question \"1\""), HasSubstr("there already")));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { open_squad({folder.file("none.json")}, "data.val"); }),
              AllOf(HasSubstr("data.val"), HasSubstr("none.json")));
}

// What is wrong with a file of this text.
std::string refusal(const std::string& text) {
  const TemporaryFolder folder;
  const std::string path = write_text(folder.file("bad.json"), text);
  const std::string message = error_message(ErrorKind::kData, [&] {
    SquadData data;
    add_squad_file(path, data);
  });
  EXPECT_THAT(message, HasSubstr("bad.json"));
  return message;
}

TEST(SquadFile, OtherJsonIsRefused) {
  EXPECT_THAT(refusal("[1, 2]"), HasSubstr("no SQuAD file"));
  EXPECT_THAT(refusal("{\"rows\": []}"), HasSubstr("\"data\""));
  EXPECT_THAT(refusal("{\"data\": []}"), HasSubstr("no questions"));
  EXPECT_THAT(refusal("{\"data\": [{\"paragraphs\": 3}]}"), HasSubstr("3"));
  EXPECT_THAT(refusal("{\"data\": [{\"paragraphs\": [{\"context\": \"\", \"qas\": []}]}]}"),
              HasSubstr("\"context\" is empty"));
  EXPECT_THAT(refusal("{\"data\": "), HasSubstr("bad.json:1"));
  EXPECT_THAT(refusal(""), HasSubstr("bad.json"));
}

TEST(SquadFile, WrongAnswersAreRefusedWithTheQuestion) {
  const auto refuse = [](const Value& one) { return refusal(squad_json({one})); };
  EXPECT_THAT(
      refuse(paragraph("The answer is é42.", {{"q7", "What?", {{"é42", 15}}}})),
      AllOf(HasSubstr("question \"q7\""), HasSubstr("\"é42\""), HasSubstr("character 15"), HasSubstr("\"42.\"")));
  EXPECT_THAT(refuse(paragraph("short", {{"q7", "What?", {{"x", 5}}}})), AllOf(HasSubstr("q7"), HasSubstr("0 to 4")));
  EXPECT_THAT(refuse(paragraph("short", {{"q7", "What?", {{"x", -1}}}})), AllOf(HasSubstr("q7"), HasSubstr("-1")));
  EXPECT_THAT(refuse(paragraph("short", {{"q7", "What?", {{"", 0}}}})), AllOf(HasSubstr("q7"), HasSubstr("empty")));
  EXPECT_THAT(refuse(paragraph("short", {{"q7", "", {{"short", 0}}}})),
              AllOf(HasSubstr("q7"), HasSubstr("\"question\" is empty")));
  EXPECT_THAT(refuse(paragraph("short", {{"q7", "What?", {}}}, /*version=*/1)),
              AllOf(HasSubstr("q7"), HasSubstr("is_impossible")));
  Value both = paragraph("short", {{"q7", "What?", {{"short", 0}}}});
  std::string text = squad_json({both});
  text.replace(text.find("\"is_impossible\": false"), 22, "\"is_impossible\": true");
  EXPECT_THAT(refusal(text), AllOf(HasSubstr("q7"), HasSubstr("expected none")));
  EXPECT_THAT(refuse(paragraph("short", {{"q7", "a", {{"short", 0}}}, {"q7", "b", {{"short", 0}}}})),
              AllOf(HasSubstr("q7"), HasSubstr("there already")));
}

}  // namespace
}  // namespace qat

#include "src/data/question_windows.h"

#include <gmock/gmock.h>

#include <set>

#include "src/data/builtin_questions.h"
#include "src/data/question_sampler.h"
#include "tests/src/data/squad_fixture.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using testing::paragraph;
using testing::read_squad;
using testing::TemporaryFolder;

constexpr QuestionLayout kSmall{.sequence_length = 14, .window_advance = 4, .question_tokens = 3};

// A token per byte: '_' stands for the end of text.
std::string shown(const QuestionWindows& windows, const QuestionWindows::Window& window) {
  std::vector<std::int32_t> inputs(static_cast<std::size_t>(windows.layout().sequence_length));
  windows.fill(window, inputs);
  std::string text;
  for (const std::int32_t id : inputs) text += id == ByteTokenizer::kEndOfTextId ? '_' : static_cast<char>(id);
  return text;
}

std::vector<int> numbers(const SpanTarget& target) {
  return {target.start, target.end, target.context_begin, target.context_end};
}

TEST(QuestionWindows, CutTheContextAndPointAtTheAnswerInThoseThatHaveAllOfIt) {
  const TemporaryFolder folder;
  const QuestionWindows windows(
      read_squad(folder, {paragraph("abcdefghijklmnop", {{"q", "who?", {{"ijk", 8}}}, {"r", "x", {}}})}),
      ByteTokenizer(), kSmall);
  const auto& all = windows.windows();
  ASSERT_EQ(all.size(), 6U);  // 9 of the context's 16 tokens fit beside "who", 11 beside "x"
  EXPECT_EQ(shown(windows, all[0]), "who_abcdefghi_");
  EXPECT_EQ(shown(windows, all[1]), "who_efghijklm_");
  EXPECT_EQ(shown(windows, all[2]), "who_ijklmnop__");
  EXPECT_EQ(shown(windows, all[3]), "x_abcdefghijk_");
  EXPECT_EQ(shown(windows, all[4]), "x_efghijklmno_");
  EXPECT_EQ(shown(windows, all[5]), "x_ijklmnop____");
  EXPECT_EQ(windows.length(all[2]), 13);
  // "i" alone is not the answer.
  EXPECT_THAT(numbers(windows.target(all[0])), ElementsAre(0, 0, 4, 13));
  EXPECT_THAT(numbers(windows.target(all[1])), ElementsAre(8, 10, 4, 13));
  EXPECT_THAT(numbers(windows.target(all[2])), ElementsAre(4, 6, 4, 12));
  EXPECT_THAT(numbers(windows.target(all[3])), ElementsAre(0, 0, 2, 13));
}

TEST(QuestionWindows, TheLastOneReachesTheEndOfTheContext) {
  const TemporaryFolder folder;
  for (int length = 1; length <= 40; ++length) {
    const QuestionWindows windows(read_squad(folder, {paragraph(std::string(static_cast<std::size_t>(length), 'c'),
                                                                {{"q", "who?", {{"c", 0}}}})}),
                                  ByteTokenizer(), kSmall);
    std::set<int> seen;
    for (const auto& window : windows.windows())
      for (int i = 0; i < window.tokens; ++i) seen.insert(window.first + i);
    EXPECT_EQ(std::ssize(seen), length);
    EXPECT_EQ(windows.windows().size(), length <= 9 ? 1U : static_cast<std::size_t>((length - 9 + 3) / 4 + 1))
        << length;
  }
}

TEST(QuestionWindows, AnAnswersBytesAreWholeCharactersWithoutWhiteSpaceAround) {
  const TemporaryFolder folder;
  const QuestionWindows windows(read_squad(folder, {paragraph("a é€ b", {{"q", "?", {{"é€", 2}}}})}), ByteTokenizer(),
                                {.sequence_length = 20, .window_advance = 5, .question_tokens = 3});
  const auto& window = windows.windows()[0];
  const SquadQuestion& question = windows.data().questions[0];
  const auto text = [&](std::int64_t start, std::int64_t end) {
    return windows.data().answer(question, windows.bytes(window, start, end));
  };
  // Places: "?", end of text, then 'a', ' ', é in two tokens, € in three, ' ', 'b'.
  EXPECT_THAT(numbers(windows.target(window)), ElementsAre(4, 8, 2, 11));
  EXPECT_EQ(text(4, 8), "é€");
  EXPECT_EQ(text(5, 7), "é€");  // from the middle of one character to that of another
  EXPECT_EQ(text(3, 9), "é€");
  EXPECT_EQ(text(3, 3), "");
  EXPECT_EQ(text(2, 10), "a é€ b");
}

TEST(QuestionWindows, WhatTheyPointAtIsTheAnswer) {
  const QuestionWindows windows(builtin_questions(Split::kVal), ByteTokenizer(),
                                {.sequence_length = 80, .window_advance = 20, .question_tokens = 24});
  std::set<int> found;
  for (const auto& window : windows.windows()) {
    const SpanTarget target = windows.target(window);
    if (target.end == 0) continue;
    const SquadQuestion& question = windows.data().questions[static_cast<std::size_t>(window.question)];
    EXPECT_EQ(windows.bytes(window, target.start, target.end), question.answers[0]) << question.id;
    found.insert(window.question);
  }
  for (std::size_t i = 0; i < windows.data().questions.size(); ++i)
    EXPECT_EQ(found.contains(static_cast<int>(i)), !windows.data().questions[i].answers.empty()) << i;
}

TEST(QuestionWindows, IdentityIsThatOfTokensAndAnswers) {
  const TemporaryFolder folder;
  const auto identity = [&](const std::string& context, const std::string& question, int start) {
    return QuestionWindows(read_squad(folder, {paragraph(context, {{"q", question, {{"b", start}}}})}), ByteTokenizer(),
                           kSmall)
        .identity();
  };
  const SplitIdentity first = identity("abcb", "?", 1);
  ASSERT_EQ(first.size(), 1U);
  EXPECT_EQ(first[0].tokens, 5);
  EXPECT_EQ(first[0].content.largest_id, 'c');
  EXPECT_EQ(identity("abcb", "?", 1), first);
  EXPECT_FALSE(identity("abcb", "?", 3)[0].same_tokens(first[0]));
  EXPECT_FALSE(identity("abca", "?", 1)[0].same_tokens(first[0]));
  EXPECT_FALSE(identity("abcb", "!", 1)[0].same_tokens(first[0]));
}

TEST(QuestionSampler, EveryEpochHasEveryWindowOnceInAnOrderOfItsOwn) {
  const QuestionWindows windows(builtin_questions(Split::kVal), ByteTokenizer(),
                                {.sequence_length = 96, .window_advance = 32, .question_tokens = 32});
  const QuestionSampler sampler(windows, 7), again(windows, 7), other(windows, 8);
  const auto count = static_cast<std::uint64_t>(sampler.windows_per_epoch());
  EXPECT_EQ(count, windows.windows().size());
  std::vector<std::size_t> first, second;
  for (std::uint64_t n = 0; n < count; ++n) {
    first.push_back(sampler.window_of(n));
    second.push_back(sampler.window_of(count + n));
    EXPECT_EQ(again.window_of(n), first.back());
  }
  EXPECT_EQ(std::set<std::size_t>(first.begin(), first.end()).size(), count);
  EXPECT_NE(first, second);
  EXPECT_NE(other.window_of(0) * count + other.window_of(1), first[0] * count + first[1]);
  EXPECT_EQ(sampler.targets_per_sample(), 4);
  EXPECT_EQ(sampler.valid_targets(10), 10);
  std::vector<std::int32_t> inputs(96), filled(96), targets(4);
  sampler.sample(3, inputs, targets);
  windows.fill(windows.windows()[first[3]], filled);
  EXPECT_EQ(inputs, filled);
  const SpanTarget target = windows.target(windows.windows()[first[3]]);
  EXPECT_THAT(targets, ElementsAre(target.start, target.end, target.context_begin, target.context_end));
}

TEST(BuiltinQuestions, AreTheSameForAllTimeAndDifferBetweenTheSplits) {
  const SquadData train = builtin_questions(Split::kTrain), val = builtin_questions(Split::kVal);
  EXPECT_EQ(train.questions.size(), 2000U);
  EXPECT_EQ(val.questions.size(), 200U);
  int answered = 0;
  for (const SquadQuestion& question : train.questions) {
    if (question.answers.empty()) continue;
    ++answered;
    const std::string name = question.text.substr(12, question.text.size() - 13);  // "What is the ...?"
    const std::string said = "The " + name + " is " + std::string(train.answer(question, question.answers[0])) + ".";
    EXPECT_NE(train.contexts[question.context].find(said), std::string::npos) << question.id;
  }
  EXPECT_NEAR(answered, 1500, 60);
  EXPECT_EQ(train.contexts[0], "The city is Paris. The fruit is a plum. The month is October. The animal is an owl.");
  EXPECT_NE(train.contexts[0], val.contexts[0]);
}

}  // namespace
}  // namespace qat

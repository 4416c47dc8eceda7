#include "src/eval/generated_answers.h"

#include <gmock/gmock.h>

#include "dist/comm/local_comm.h"
#include "tests/src/data/squad_fixture.h"
#include "tests/support/kernel_data.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using testing::paragraph;
using testing::TemporaryFolder;

// A model of bytes that decides by the last one alone: behind ':' it says " Yes", and then ends the line, or the text.
class GeneratedAnswersTest : public ::testing::Test {
 protected:
  void SetUp() override { build('\n'); }
  void build(int last) {
    tiny_.config = {.preset = "",
                    .n_layer = 1,
                    .n_head = 2,
                    .n_embd = 16,
                    .n_positions = 96,
                    .vocab_size = 257,
                    .tie_lm_head = false};
    tiny_.build();
    const at::NoGradGuard no_grad;
    for (const ParameterInfo& info : tiny_.model->parameters().infos())
      if (info.name.find(".h.") != std::string::npos || info.name.find("wpe") != std::string::npos)
        tensor(info.name).zero_();
    at::Tensor wte = tensor("transformer.wte.weight"), head = tensor("lm_head.weight");
    wte.zero_(), head.zero_();
    // Norms take away the mean: tokens are pairs of one and minus one.
    for (int token = 0; token < 257; ++token) wte[token][7] = 1, wte[token][15] = -1;
    const std::vector<int> says = {':', ' ', 'Y', 'e', 's', last};
    for (std::size_t i = 0; i + 1 < says.size(); ++i) {
      const auto feature = static_cast<std::int64_t>(i);
      wte[says[i]].zero_();
      wte[says[i]][feature] = 1, wte[says[i]][feature + 8] = -1;
      head[says[i + 1]][feature] = 5;
    }
  }
  at::Tensor tensor(const std::string& name) const {
    return tiny_.model->parameters().tensor(tiny_.id_of(name)).detach();
  }
  OpenQuestionSet squad(const GeneratedAnswerOptions& options = {}) const {
    const SquadData data = read_squad(
        folder_,
        {paragraph("Yes. Yes no.",
                   {{"a", "Q?", {{"Yes.", 0}}}, {"b", "Longer?", {{"Yes no", 5}, {"no", 9}}}, {"c", "None?", {}}})});
    return {squad_prompts(data), AnswerRule::kWords, std::make_shared<ByteTokenizer>(), tiny_.config.n_positions,
            options};
  }
  GeneratedAnswers answer(const OpenQuestionSet& set, int ranks = 1, int bits = 8) const {
    GeneratedAnswers found;
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      const PrecisionMap precision = PrecisionMap::uniform(tiny_.config.linears(), bits, bits);
      dist::StopPoll poll(comm);
      const auto one = set.answer({.model = *tiny_.model, .precision = precision, .grid = comm, .poll = poll});
      if (comm.rank() == comm.size() - 1) found = one.value();
    });
    return found;
  }

  std::string error(ErrorKind kind, std::int64_t new_tokens) const {
    return test::error_of(kind, [&] { (void)squad({.max_new_tokens = new_tokens}); });
  }

  const TemporaryFolder folder_;
  test::TinyModel tiny_;
};

TEST_F(GeneratedAnswersTest, AreScoredAsSquadsProgramsDo) {
  for (const int last : {static_cast<int>('\n'), ByteTokenizer::kEndOfTextId}) {
    build(last);
    const GeneratedAnswers found = answer(squad());
    EXPECT_THAT(found.answers, Each("Yes"));
    EXPECT_EQ(found.answers.size(), 3U);
    EXPECT_DOUBLE_EQ(found.exact_match, 100.0 / 3);
    EXPECT_DOUBLE_EQ(found.f1, 100.0 * (1 + 2.0 / 3) / 3) << "one of two words of the best right answer";
    EXPECT_EQ(found.shortened, 0);
  }
}

TEST_F(GeneratedAnswersTest, AreTheSameOnAnyNumberOfRanksAndInAnyBatch) {
  const GeneratedAnswers want = answer(squad());
  for (const int ranks : {1, 2, 3, 4})
    for (const std::int64_t batch : {1, 2, 32}) {
      const GeneratedAnswers found = answer(squad({.batch_size = batch}), ranks);
      EXPECT_EQ(found.answers, want.answers);
      EXPECT_EQ(found.exact_match, want.exact_match);
      EXPECT_EQ(found.f1, want.f1);
    }
}

TEST_F(GeneratedAnswersTest, HaveTheirRoomAndLeaveTheQuestionItsOwn) {
  // 70 tokens leave 26 for prompts, that is none for "Reading" and the question.
  EXPECT_THAT(error(ErrorKind::kData, 70), HasSubstr("question \"a\""));
  EXPECT_THAT(error(ErrorKind::kConfig, 96), HasSubstr("model.n_positions = 96"));
  const GeneratedAnswers found = answer(squad({.max_new_tokens = 48}));
  EXPECT_EQ(found.shortened, 2) << "the longer questions'";
  EXPECT_THAT(found.answers, Each("Yes"));
  EXPECT_THAT(answer(squad({.max_new_tokens = 2})).answers, Each("Y"));
}

TEST_F(GeneratedAnswersTest, ByTriviasRuleContainARightOne) {
  const auto score = [&](const std::vector<std::string>& right) {
    const std::vector<OpenQuestion> one = {{.id = "a", .before = "", .context = "", .after = "Q:", .right = right}};
    return answer({one, AnswerRule::kContains, std::make_shared<ByteTokenizer>(), 96, {}}).exact_match;
  };
  EXPECT_EQ(score({"yes"}), 100.0);
  EXPECT_EQ(score({"no", "The YES!"}), 100.0);
  EXPECT_EQ(score({"yes no"}), 0.0);
  EXPECT_EQ(score({"the"}), 0.0) << "nothing is left of it";
}

TEST_F(GeneratedAnswersTest, PredictionsAreByTheQuestionsIds) {
  const OpenQuestionSet set = squad();
  EXPECT_EQ(set.predictions(answer(set)), "{\n  \"a\": \"Yes\",\n  \"b\": \"Yes\",\n  \"c\": \"Yes\"\n}\n");
}

}  // namespace
}  // namespace qat

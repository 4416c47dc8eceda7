#include "src/eval/held_out_questions.h"

#include <gmock/gmock.h>

#include <cmath>

#include "dist/comm/local_comm.h"
#include "src/eval/width_eval.h"
#include "tests/src/data/squad_fixture.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using testing::paragraph;
using testing::TemporaryFolder;

// A model of bytes whose answer is decided by the token alone: the logits of 'S' as a start and of 'E' as an end are
// large, those of '?', which stands first, are between.
class Questions : public ::testing::Test {
 protected:
  void SetUp() override {
    tiny_.config = {.preset = "",
                    .n_layer = 1,
                    .n_head = 2,
                    .n_embd = 16,
                    .n_positions = 24,
                    .vocab_size = 257,
                    .task = ModelTask::kSpanQa};
    tiny_.build();
    const at::NoGradGuard no_grad;
    for (const ParameterInfo& info : tiny_.model->parameters().infos()) {
      at::Tensor t = tensor(info.name);
      if (info.name.find(".h.") != std::string::npos || info.name.find("wpe") != std::string::npos) t.zero_();
    }
    at::Tensor wte = tensor("transformer.wte.weight");
    wte.zero_();
    // Norms take away the mean: tokens are pairs of one and minus one.
    const auto set = [&](char token, int feature) { wte[token][feature] = 1, wte[token][feature + 8] = -1; };
    for (int token = 0; token < 257; ++token) wte[token][7] = 1, wte[token][15] = -1;
    for (const char token : {'S', 'E', '?'}) wte[token].zero_();
    set('S', 0), set('E', 1), set('?', 2);
    at::Tensor head = tensor("qa_outputs.weight");
    head.zero_();
    head[0][0] = 5, head[1][1] = 5;
    tensor("qa_outputs.bias").zero_();
  }
  at::Tensor tensor(const std::string& name) const {
    return tiny_.model->parameters().tensor(tiny_.id_of(name)).detach();
  }
  void set_no_answer(float logit) { tensor("qa_outputs.weight").select(1, 2).fill_(logit); }

  QuestionWindows windows(const std::vector<Value>& paragraphs, std::int64_t length = 12) const {
    return QuestionWindows(read_squad(folder_, paragraphs), ByteTokenizer(),
                           {.sequence_length = length, .window_advance = 4, .question_tokens = 2});
  }
  HeldOutScore score(const QuestionWindows& windows, const EvalConfig& config = {}, int ranks = 1) const {
    HeldOutScore found;
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      dist::StopPoll poll(comm);
      const PrecisionMap full = PrecisionMap::uniform(4, BitWidth::kFull, BitWidth::kFull);
      const auto mine =
          HeldOutQuestions(windows).score({.model = *tiny_.model, .precision = full, .grid = comm, .poll = poll},
                                          config, windows.layout().sequence_length);
      if (comm.rank() == comm.size() - 1) found = mine.value();
    });
    return found;
  }
  TemporaryFolder folder_;
  test::TinyModel tiny_;
};

TEST_F(Questions, AreAnsweredByTheBestPartOfAnyWindow) {
  // 8 tokens of a context fit into a window. The answer S..E of the first lies in its last window alone.
  const QuestionWindows set =
      windows({paragraph("xxxxxxxxx Sab E x", {{"late", "?", {{"Sab E", 10}}}}, 1),
               paragraph("S x E", {{"part", "?", {{"x E", 2}}}, {"wrong", "?", {{"x", 2}}}}, 1)});
  const HeldOutScore found = score(set, {.batch_size = 2});
  ASSERT_TRUE(found.answers);
  EXPECT_THAT(found.answers->answers, ElementsAre("Sab E", "S x E", "S x E"));
  EXPECT_NEAR(found.answers->exact_match, 100.0 / 3, 1e-9);
  EXPECT_NEAR(found.answers->f1, 100.0 * (1 + 0.8 + 0.5) / 3, 1e-9);
  EXPECT_EQ(found.tokens, std::ssize(set.windows()));
  EXPECT_TRUE(std::isfinite(found.mean_nll()));
  EXPECT_EQ(HeldOutQuestions(set).predictions(found),
            "{\n  \"late\": \"Sab E\",\n  \"part\": \"S x E\",\n  \"wrong\": \"S x E\"\n}\n");
}

TEST_F(Questions, AnswersAreNoLongerThanTheyMayBe) {
  const QuestionWindows set = windows({paragraph("SabcE x", {{"q", "?", {{"SabcE", 0}}}}, 1)});
  EXPECT_THAT(score(set, {.max_answer_tokens = 5}).answers->answers, ElementsAre("SabcE"));
  EXPECT_NE(score(set, {.max_answer_tokens = 4}).answers->answers[0], "SabcE");
}

TEST_F(Questions, WithoutAnAnswerNeedItsScoreToBeTheHighestByTheThresholdInEveryWindow) {
  const std::vector<Value> version2 = {paragraph("S x E", {{"has", "?", {{"S x E", 0}}}, {"none", "?", {}}}),
                                       paragraph("xxxxxxxxxxxxxxx", {{"empty", "?", {}}})};
  set_no_answer(4.0F);  // two of them make 8, S and E make 10, x and x 0: times the norm's square root of 8
  EXPECT_THAT(score(windows(version2)).answers->answers, ElementsAre("S x E", "S x E", ""));
  EXPECT_THAT(score(windows(version2), {.null_threshold = -1000.0}).answers->answers, ElementsAre("", "", ""));
  EXPECT_NE(score(windows(version2), {.null_threshold = 1000.0}).answers->answers[2], "");
  set_no_answer(6.0F);
  const HeldOutScore none = score(windows(version2));
  EXPECT_THAT(none.answers->answers, ElementsAre("", "", ""));
  EXPECT_NEAR(none.answers->exact_match, 200.0 / 3, 1e-9);
  // Version 1 asks for an answer always.
  const QuestionWindows version1 = windows({paragraph("S x E", {{"has", "?", {{"S x E", 0}}}}, 1)});
  EXPECT_THAT(score(version1).answers->answers, ElementsAre("S x E"));
}

TEST_F(Questions, ScoresHaveTheSameBitsOnAnyNumberOfRanks) {
  tiny_.randomize();
  const QuestionWindows set =
      windows({paragraph("xxxx xxxxx Sab E x", {{"a", "?", {{"S", 11}}}, {"b", "why", {{"x", 0}}}}),
               paragraph("some other words", {{"c", "?", {}}})});
  const HeldOutScore one = score(set, {.batch_size = 2});
  for (const int ranks : {2, 3}) {
    const HeldOutScore many = score(set, {.batch_size = 2}, ranks);
    EXPECT_EQ(many.nll_sum, one.nll_sum) << ranks;
    EXPECT_EQ(many.answers->answers, one.answers->answers) << ranks;
  }
}

}  // namespace
}  // namespace qat

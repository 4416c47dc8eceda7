#include "src/eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>

#include "kernels/common/error.h"
#include "src/data/eval_windows.h"
#include "src/eval/width_eval.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;

HeldOutScore score(TinyModel& tiny, const TokenSource& tokens, const EvalConfig& config, int bits = 8,
                   std::int64_t length = 12) {
  const auto comm = dist::make_single_comm();
  dist::StopPoll poll(*comm);
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, bits);
  return held_out_score({.model = *tiny.model, .precision = map, .threads = 2, .grid = *comm, .poll = poll}, tokens,
                        config, length)
      .value();
}

TEST(HeldOutScore, ScoresEveryTokenAfterTheFirstOnce) {
  TinyModel tiny;
  tiny.build();
  for (const std::int64_t count : {2, 12, 13, 14, 100, 121})
    for (const std::int64_t stride : {1, 5, 12})
      EXPECT_EQ(score(tiny, test::tiny_tokens(count), {.stride = stride, .batch_size = 3}).tokens, count - 1);
}

TEST(HeldOutScore, IsTheSumOverWindowsComputedOneByOne) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const TokenSource tokens = test::tiny_tokens(100);
  double expected = 0.0;
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, 8);
  for (std::int64_t begin = 0; begin < 99; begin += 12) {
    const std::int64_t length = std::min<std::int64_t>(12, 99 - begin);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(length) + 1);
    tokens.copy(begin, ids);
    const at::Tensor text = at::tensor(std::vector<std::int64_t>(ids.begin(), ids.end())).unsqueeze(0);
    expected += tiny.model
                    ->token_nll(text.narrow(1, 0, length).contiguous(), text.narrow(1, 1, length).contiguous(),
                                tiny.context(map))
                    .sum(at::kDouble)
                    .item<double>();
  }
  const HeldOutScore result = score(tiny, tokens, {.batch_size = 4});
  EXPECT_NEAR(result.nll_sum, expected, 1e-4 * expected);
  EXPECT_NEAR(result.perplexity(), std::exp(expected / 99), 1e-3 * result.perplexity());
}

// With overlapping windows a token's context is what its window has before it: no longer and no shorter.
TEST(HeldOutScore, ScoresOnlyTheNewTokensOfOverlappingWindows) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const TokenSource tokens = test::tiny_tokens(40);
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, 32);
  double expected = 0.0;
  for (const EvalWindow& window : eval_windows(40, 12, 5)) {
    std::vector<std::int32_t> ids(static_cast<std::size_t>(window.inputs()) + 1);
    tokens.copy(window.begin, ids);
    const at::Tensor text = at::tensor(std::vector<std::int64_t>(ids.begin(), ids.end())).unsqueeze(0);
    const at::Tensor nll = tiny.model->token_nll(text.narrow(1, 0, window.inputs()).contiguous(),
                                                 text.narrow(1, 1, window.inputs()).contiguous(), tiny.context(map));
    expected += nll.narrow(1, window.inputs() - window.scored(), window.scored()).sum(at::kDouble).item<double>();
  }
  EXPECT_NEAR(score(tiny, tokens, {.stride = 5, .batch_size = 3}, 32).nll_sum, expected, 1e-4 * expected);
}

TEST(HeldOutScore, ReadsAtMostTheTokensAskedFor) {
  TinyModel tiny;
  tiny.build();
  EXPECT_EQ(score(tiny, test::tiny_tokens(100), {.max_tokens = 30}).tokens, 29);
  EXPECT_EQ(score(tiny, test::tiny_tokens(100), {.max_tokens = 1000}).tokens, 99);
  EXPECT_EQ(score(tiny, test::tiny_tokens(100), {.max_tokens = 30}).nll_sum,
            score(tiny, test::tiny_tokens(30), {}).nll_sum);
}

TEST(HeldOutScore, DropsNoActivations) {
  TinyModel plain, dropping;
  dropping.config.resid_dropout = 0.5;
  plain.build(), dropping.build();
  EXPECT_EQ(score(dropping, test::tiny_tokens(50), {}).nll_sum, score(plain, test::tiny_tokens(50), {}).nll_sum);
}

TEST(HeldOutScore, RefusesATextWithoutATokenToPredict) {
  TinyModel tiny;
  tiny.build();
  try {
    (void)score(tiny, test::tiny_tokens(1), {});
    FAIL() << "scored one token";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_NE(std::string(error.what()).find("data.val (tiny) has 1 token to read"), std::string::npos);
  }
}

TEST(HeldOutScore, HasTheSameBitsOnAnyNumberOfRanks) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens(300);
  double one = 0.0;
  std::mutex mutex;
  for (const int ranks : {1, 2, 3, 8}) {
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel tiny;
      tiny.build();
      dist::StopPoll poll(comm);
      const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, 4);
      const EvaluationJob job{
          .model = *tiny.model, .precision = map, .threads = 1 + comm.rank(), .grid = comm, .poll = poll};
      const double sum = held_out_score(job, tokens, {.batch_size = 4}, 12).value().nll_sum;
      const std::lock_guard lock(mutex);
      if (ranks == 1) one = sum;
      EXPECT_EQ(sum, one) << ranks;
    });
  }
}

TEST(HeldOutScore, AModelWithNotANumberHasNoPerplexity) {
  TinyModel tiny;
  tiny.build();
  const at::NoGradGuard no_grad;
  tiny.model->parameters().tensor(0)[3][2] = NAN;
  EXPECT_FALSE(std::isfinite(score(tiny, test::tiny_tokens(100), {}).perplexity()));
}

TEST(EvaluationWidths, AreThoseAskedForOrAllTrainedOnes) {
  const QuantConfig quant{.widths = {2, 32, 8}};
  EXPECT_EQ(evaluation_widths({}, quant), (std::vector<EvaluatedAt>{32, 8, 2}));
  EXPECT_EQ(evaluation_widths({.bits = {4, 8}}, quant), (std::vector<EvaluatedAt>{8, 4}));
}

}  // namespace
}  // namespace qat

#include "src/eval/likelihood.h"

#include <gtest/gtest.h>

#include <cmath>
#include <mutex>
#include <set>

#include "src/eval/width_eval.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;

// Texts of 2 to 13 tokens, pairs of which have equal inputs.
std::vector<ScoredText> some_texts() {
  std::vector<ScoredText> texts;
  for (int i = 0; i < 23; ++i) {
    ScoredText text{.scored = 1 + i % 2};
    for (int t = 0; t < 3 + i % 11; ++t) text.tokens.push_back((7 * i + 3 * t * t + t) % 29);
    texts.push_back(text);
    if (i % 3 == 0) {
      text.tokens.back() = (text.tokens.back() + 1) % 29;
      text.scored = 1;
      texts.push_back(text);
    }
  }
  return texts;
}

// One text by itself, without padding.
double alone(TinyModel& tiny, const ScoredText& text, int bits) {
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, bits);
  const at::Tensor ids = at::tensor(std::vector<std::int64_t>(text.tokens.begin(), text.tokens.end())).unsqueeze(0);
  const at::Tensor nll = tiny.model->token_nll(ids.narrow(1, 0, text.inputs()).contiguous(),
                                               ids.narrow(1, 1, text.inputs()).contiguous(), tiny.context(map));
  return -nll.narrow(1, text.inputs() - text.scored, text.scored).sum(at::kDouble).item<double>();
}

std::vector<double> scores(TinyModel& tiny, std::span<const ScoredText> texts, int bits, std::int64_t pass_tokens,
                           dist::Communicator& comm, int threads = 1) {
  dist::StopPoll poll(comm);
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, bits);
  return log_likelihoods({.model = *tiny.model, .precision = map, .threads = threads, .grid = comm, .poll = poll},
                         tiny.quant, texts, pass_tokens)
      .value();
}

TEST(RoundedLength, IsAPowerOfTwoOrTheMeanOfTwo) {
  std::set<std::int64_t> lengths;
  for (std::int64_t n = 1; n <= 1024; ++n) {
    EXPECT_GE(rounded_length(n), n);
    EXPECT_LE(rounded_length(n), std::max<std::int64_t>(16, n + n / 2));
    lengths.insert(rounded_length(n));
  }
  EXPECT_EQ(lengths, (std::set<std::int64_t>{16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024}));
}

TEST(LikelihoodPlan, HasEveryTextOnceInFewPasses) {
  const std::vector<ScoredText> texts = some_texts();
  const LikelihoodPlan plan = plan_likelihoods(texts, /*pass_tokens=*/64, /*most=*/12);
  EXPECT_EQ(std::set<std::size_t>(plan.order.begin(), plan.order.end()).size(), texts.size());
  EXPECT_LT(plan.rows.size(), texts.size());
  std::size_t rows = 0;
  for (const LikelihoodPlan::Pass& pass : plan.passes) {
    EXPECT_EQ(pass.first, rows);
    EXPECT_EQ(pass.length, 12);  // rounded up, but no more than the model reads
    EXPECT_LE(static_cast<std::int64_t>(pass.count) * pass.length, 64);
    rows += pass.count;
  }
  EXPECT_EQ(rows, plan.rows.size());
}

TEST(LogLikelihoods, AreThoseOfEachTextAlone) {
  at::set_num_threads(1);
  const auto comm = dist::make_single_comm();
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  const std::vector<ScoredText> texts = some_texts();
  for (const int bits : {32, 8, 4}) {
    const std::vector<double> found = scores(tiny, texts, bits, 64, *comm);
    for (std::size_t i = 0; i < texts.size(); ++i)
      EXPECT_NEAR(found[i], alone(tiny, texts[i], bits), 1e-5 * std::abs(found[i]) + 1e-5) << bits << " " << i;
  }
}

// One range for all tokens of a pass would see the other texts and the padding.
TEST(LogLikelihoods, OfATensorsDynamicRangeAreThoseOfEachTextAloneToo) {
  at::set_num_threads(1);
  const auto comm = dist::make_single_comm();
  TinyModel tiny;
  tiny.quant.activation.granularity = Granularity::kTensor;
  tiny.config.quantize_lm_head = true;
  tiny.build();
  tiny.randomize();
  const std::vector<ScoredText> texts = some_texts();
  const std::vector<double> found = scores(tiny, texts, 4, 64, *comm);
  for (std::size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(found[i], alone(tiny, texts[i], 4)) << i;
}

TEST(LogLikelihoods, HaveTheSameBitsOnAnyNumberOfRanksAndThreads) {
  at::set_num_threads(1);
  const std::vector<ScoredText> texts = some_texts();
  std::vector<double> one;
  std::mutex mutex;
  for (const int ranks : {1, 3, 4}) {
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel tiny;
      tiny.build();
      const std::vector<double> found = scores(tiny, texts, 4, 36, comm, /*threads=*/1 + comm.rank());
      const std::lock_guard lock(mutex);
      if (ranks == 1) one = found;
      EXPECT_EQ(found, one) << ranks;
    });
  }
}

TEST(LogLikelihoods, OfAModelWithNotANumberAreNone) {
  const auto comm = dist::make_single_comm();
  TinyModel tiny;
  tiny.build();
  {
    const at::NoGradGuard no_grad;
    tiny.model->parameters().tensor(0)[3][2] = NAN;
  }
  std::size_t broken = 0;
  for (const double value : scores(tiny, some_texts(), 8, 64, *comm)) broken += std::isfinite(value) ? 0 : 1;
  EXPECT_GT(broken, 0U);
}

}  // namespace
}  // namespace qat

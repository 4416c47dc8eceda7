#include "src/eval/robustness.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "src/eval/width_eval.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;

constexpr std::int64_t kLength = 12, kWindows = 8;

struct RandomModel : TinyModel {
  RandomModel() {
    at::set_num_threads(1);      // passes of so few numbers are slower on several
    config.tie_lm_head = false;  // else it says again what it reads, whatever is done to that
    build();
    randomize();
  }
};

std::int64_t likeliest_next(const TinyModel& tiny, const std::vector<std::int64_t>& read, const PrecisionMap& map) {
  const at::NoGradGuard no_grad;
  const ForwardContext context = tiny.context(map);
  const at::Tensor hidden = tiny.model->hidden(at::tensor(read).unsqueeze(0), context);
  return tiny.model->logits(hidden.select(1, hidden.size(1) - 1), context).argmax().item<std::int64_t>();
}

// A text of windows of kLength tokens, in each of which every token is the one that the model finds likeliest.
TokenSource own_text(const TinyModel& tiny, int bits) {
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, bits);
  std::vector<std::uint16_t> text = {1};
  for (std::int64_t window = 0; window < kWindows; ++window) {
    std::vector<std::int64_t> read = {text.back()};
    while (std::ssize(read) <= kLength) {
      read.push_back(likeliest_next(tiny, read, map));
      text.push_back(static_cast<std::uint16_t>(read.back()));
    }
  }
  TokenSource tokens;
  tokens.add_tokens("own", std::move(text));
  return tokens;
}

RobustnessFigures figures(const TinyModel& tiny, const TokenSource& tokens, const RobustnessOptions& options,
                          int bits = 32, const EvalConfig& config = {.batch_size = 3}) {
  const auto comm = dist::make_single_comm();
  dist::StopPoll poll(*comm);
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, bits);
  return robustness({.model = *tiny.model, .precision = map, .threads = 2, .grid = *comm, .poll = poll}, tokens, config,
                    kLength, options)
      .value();
}

TEST(Robustness, NothingThatMovesChangesNothing) {
  const RandomModel tiny;
  for (const int bits : {32, 4}) {
    const RobustnessFigures found =
        figures(tiny, own_text(tiny, bits), {.epsilon = 1e-12, .rate = 0.0, .steps = 2}, bits);
    EXPECT_EQ(found.tokens, kWindows * kLength);
    EXPECT_EQ(found.clean, found.tokens) << bits;
    for (const std::int64_t right : found.right) EXPECT_EQ(right, found.tokens) << bits;
    EXPECT_EQ(found.gap(), 0.0);
  }
}

TEST(Robustness, WhatFollowsTheGradientDoesMoreThanNoiseOfThatSize) {
  const RandomModel tiny;
  for (const int bits : {32, 8}) {
    const RobustnessFigures found =
        figures(tiny, own_text(tiny, bits), {.epsilon = 0.05, .rate = 0.2, .steps = 3}, bits);
    EXPECT_EQ(found.clean_accuracy(), 1.0) << bits;
    EXPECT_LT(found.accuracy(Disturbance::kFgsm), found.accuracy(Disturbance::kNoise)) << bits;
    EXPECT_LT(found.accuracy(Disturbance::kPgd), found.accuracy(Disturbance::kNoise)) << bits;
    EXPECT_LT(found.accuracy(Disturbance::kReplaced), 1.0) << bits;
    EXPECT_GT(found.accuracy(Disturbance::kReplaced), 0.2) << bits;
    EXPECT_EQ(found.worst_accuracy(), 1.0 - found.gap());
  }
}

// One step along the gradient's sign, made from the parameters by autograd alone.
TEST(Robustness, FgsmIsAStepAlongTheSignOfTheLossGradientAndDroppedTokensAreZeros) {
  const RandomModel tiny;
  const TokenSource tokens = own_text(tiny, 32);
  const PrecisionMap map = evaluation_precision(*tiny.model, tiny.quant, 32);
  const ForwardContext context = tiny.context(map);
  const at::Tensor wte = tiny.model->parameters().tensor(tiny.id_of("transformer.wte.weight"));
  const at::Tensor head = tiny.model->parameters().tensor(tiny.id_of("lm_head.weight"));
  const at::Tensor wpe = tiny.model->parameters().tensor(tiny.id_of("transformer.wpe.weight"));
  constexpr double kEpsilon = 0.05;
  std::int64_t right = 0, dropped = 0;
  for (std::int64_t window = 0; window < kWindows; ++window) {
    std::vector<std::int32_t> ids(kLength + 1);
    tokens.copy(window * kLength, ids);
    const at::Tensor text = at::tensor(std::vector<std::int64_t>(ids.begin(), ids.end()));
    const at::Tensor targets = text.narrow(0, 1, kLength);
    const at::Tensor x = (wte.index_select(0, text.narrow(0, 0, kLength)) + wpe.narrow(0, 0, kLength))
                             .unsqueeze(0)
                             .detach()
                             .requires_grad_(true);
    const auto logits = [&](const at::Tensor& states) {
      const StagePass pass = tiny.model->forward({.states = states}, context);
      return std::pair(pass.states, at::linear(pass.output, head).squeeze(0));
    };
    const auto [entered, first] = logits(x);
    const at::Tensor gradient = torch::autograd::grad({at::cross_entropy_loss(first, targets)}, {entered}).front();
    const at::NoGradGuard no_grad;
    right += logits(x + kEpsilon * gradient.sign()).second.argmax(1).eq(targets).sum().item<std::int64_t>();
    const at::Tensor none = tiny.model->embeddings(at::zeros({1, kLength}, at::kLong));
    dropped += logits(none).second.argmax(1).eq(targets).sum().item<std::int64_t>();
  }
  const RobustnessFigures found = figures(tiny, tokens, {.epsilon = kEpsilon, .rate = 1.0, .steps = 1});
  EXPECT_LT(right, found.tokens);
  EXPECT_EQ(found.right[static_cast<std::size_t>(Disturbance::kDropped)], dropped);
  EXPECT_EQ(found.right[static_cast<std::size_t>(Disturbance::kFgsm)], right);
}

TEST(Robustness, IsTheSameOnAnyNumberOfRanksAndThreads) {
  const RandomModel maker;
  const TokenSource tokens = own_text(maker, 8);
  const RobustnessOptions options{.epsilon = 0.05, .steps = 3};
  const RobustnessFigures one = figures(maker, tokens, options, 8);
  std::mutex mutex;
  for (const int ranks : {2, 3, 4}) {
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      std::optional<RandomModel> tiny;
      {
        const std::lock_guard lock(mutex);  // one generator of random parameters for all
        tiny.emplace();
      }
      dist::StopPoll poll(comm);
      const PrecisionMap map = evaluation_precision(*tiny->model, tiny->quant, 8);
      const RobustnessFigures found =
          robustness({.model = *tiny->model, .precision = map, .threads = 1 + comm.rank(), .grid = comm, .poll = poll},
                     tokens, {.batch_size = 3}, kLength, options)
              .value();
      const std::lock_guard lock(mutex);
      EXPECT_EQ(found.clean, one.clean);
      EXPECT_EQ(found.right, one.right);
    });
  }
  RobustnessOptions other = options;
  other.seed = 2;
  EXPECT_NE(figures(maker, tokens, other, 8).right, one.right);
}

TEST(Robustness, ReadsTheBeginningOfALongText) {
  const RandomModel tiny;
  const TokenSource tokens = own_text(tiny, 32);
  EXPECT_EQ(figures(tiny, tokens, {.steps = 1, .tokens = 50}).tokens, 50);
  EXPECT_EQ(figures(tiny, tokens, {.steps = 1, .tokens = 0}).tokens, kWindows * kLength);
  EXPECT_EQ(figures(tiny, tokens, {.steps = 1, .tokens = 50}, 32, {.max_tokens = 30, .batch_size = 3}).tokens, 29);
}

}  // namespace
}  // namespace qat

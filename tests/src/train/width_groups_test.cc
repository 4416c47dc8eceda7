// Training with parameters that each width has for itself: only a step's own widths change, over any number of ranks.
#include <gtest/gtest.h>

#include <initializer_list>
#include <map>
#include <string>
#include <utility>

#include "src/train/owned_state.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

TinyModel switchable() {
  TinyModel spec;
  spec.quant.widths = {2, 4, 8, 32};
  spec.lora.slots = spec.config.norm_slots = Slots::kPerWidth;
  return spec;
}

// Ranks, scalings, quantization and inputs of each width's own, and none at 4 bits; other quantizers at 8 bits.
TinyModel unequal() {
  TinyModel spec = switchable();
  spec.lora.per_width = {{.bits = 2, .rank = 7, .alpha = 3.0, .quantize = false, .input = AdapterInput::kRaw},
                         {.bits = 8, .rank = 2},
                         {.bits = 4, .rank = 0}};
  spec.quant.weight.by_width = spec.quant.activation.by_width = {{8, QuantizerKind::kLog}};
  return spec;
}

constexpr int kWidths[] = {8, 2, 32, 4, 8, 2, 4};

struct Trained {
  std::vector<double> losses, norms;
  std::vector<float> parameters;
};

Trained train(int ranks, TinyModel (*model)() = switchable, const OptimConfig& optim = {}) {
  const TokenSource tokens = test::tiny_tokens();
  Trained out;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    TinyModel spec = model();
    StepRunnerOptions options = test::tiny_options();
    options.optim = optim;
    TinyRank rank(spec, tokens, comm, options);
    Trained mine;
    std::uint64_t step = 0;
    for (const int bits : kWidths) {
      const StepOutcome outcome = rank.step(step++, bits, bits == 32 ? 32 : 8);
      mine.losses.push_back(outcome.loss);
      mine.norms.push_back(outcome.grad_norm);
    }
    mine.parameters = rank.parameters();
    if (comm.rank() == 0) out = mine;
  });
  return out;
}

TEST(WidthGroups, TrainToTheSameBitsOnAnyPowerOfTwoOfRanks) {
  for (const auto model : {switchable, unequal}) {
    const Trained one = train(1, model);
    for (const int ranks : {2, 4, 8}) {
      const Trained many = train(ranks, model);
      EXPECT_EQ(many.losses, one.losses) << ranks;
      EXPECT_EQ(many.norms, one.norms) << ranks;
      EXPECT_EQ(many.parameters, one.parameters) << ranks;
    }
  }
}

TEST(WidthGroups, NoiseIsTheSameOnAnyPowerOfTwoOfRanks) {
  const Trained still = train(1);
  for (const NoiseScale scale : {NoiseScale::kRelative, NoiseScale::kAbsolute}) {
    const OptimConfig noisy{.clip_norm = 0.5, .noise = 0.01, .noise_scale = scale};
    const Trained one = train(1, switchable, noisy);
    EXPECT_NE(one.parameters, still.parameters);
    for (const int ranks : {2, 4}) {
      const Trained many = train(ranks, switchable, noisy);
      EXPECT_EQ(many.losses, one.losses) << ranks;
      EXPECT_EQ(many.norms, one.norms) << ranks;
      EXPECT_EQ(many.parameters, one.parameters) << ranks;
    }
  }
}

// What a rank owns of each parameter, with its moments and count of updates.
using State = std::map<std::string, std::vector<float>>;

State state_of(TinyRank& rank) {
  State state;
  const ParameterStore& store = rank.model().parameters();
  for (const OwnedState& own : owned_state(store, rank.runner().optimizer())) {
    std::vector<float>& all = state[store.info(own.id).name];
    for (const std::span<float> values : {own.values, own.exp_avg, own.exp_avg_sq})
      all.insert(all.end(), values.begin(), values.end());
    all.push_back(static_cast<float>(
        rank.runner().optimizer().steps()[static_cast<std::size_t>(store.info(own.id).trainable_index)]));
  }
  return state;
}

TEST(WidthGroups, OtherWidthsParametersAndMomentsStayAsTheyAre) {
  const TokenSource tokens = test::tiny_tokens();
  using Model = TinyModel (*)();
  for (const auto& [ranks, model] :
       std::initializer_list<std::pair<int, Model>>{{1, switchable}, {2, switchable}, {1, unequal}, {2, unequal}}) {
    dist::run_local_ranks(ranks, [&, model = model](dist::Communicator& comm) {
      TinyModel spec = model();
      StepRunnerOptions options = test::tiny_options();
      options.optim.noise = 0.1;  // it touches nothing either
      TinyRank rank(spec, tokens, comm, options);
      for (std::uint64_t step = 0; step < 4; ++step) rank.step(step, kWidths[step], 8);
      const State before = state_of(rank);
      for (std::uint64_t step = 4; step < 54; ++step) rank.step(step, step % 2 == 0 ? 8 : 2, 8);
      bool moved = false;
      for (const auto& [name, values] : state_of(rank)) {
        const bool trained = name.find(".w8.") != std::string::npos || name.find(".w2.") != std::string::npos ||
                             (name.find(".ln_") == std::string::npos && name.find(".w4.") == std::string::npos);
        if (!trained) EXPECT_EQ(values, before.at(name)) << name;
        moved = moved || (name.find(".w2.") != std::string::npos && values != before.at(name));
      }
      EXPECT_TRUE(moved);
    });
  }
}

// One update of passes at these widths, by equal shares.
dist::StepPlan passes_at(std::uint64_t step, const std::vector<int>& widths) {
  dist::StepPlan plan{.step = step, .updates = {{.passes = {}, .learning_rate = 1e-2F}}};
  for (const int bits : widths) {
    plan.updates[0].passes.push_back({.map = static_cast<std::uint32_t>(plan.maps.size()),
                                      .loss = {.cross_entropy = 1.0 / static_cast<double>(widths.size())}});
    plan.maps.push_back({.weight_bits = bits, .activation_bits = bits, .gradient_bits = 8});
  }
  return plan;
}

// Over a frozen base widths share nothing: if a width's norm is its own, its gradient beside another's is clipped to
// that part of what it is alone which is its share of the loss, here exactly a half.
TEST(WidthGroups, AWidthThatIsClippedByItsOwnNormLearnsAsItWouldAlone) {
  const TokenSource tokens = test::tiny_tokens();
  struct Case {
    ClipScope scope;
    Recipe recipe;
    bool apart;
  };
  for (const auto& [scope, recipe, apart] :
       {Case{ClipScope::kAuto, Recipe::kSp, true}, Case{ClipScope::kAuto, Recipe::kSpnet, true},
        Case{ClipScope::kAuto, Recipe::kInstantnet, true}, Case{ClipScope::kAuto, Recipe::kCpt, false},
        Case{ClipScope::kWidth, Recipe::kCpt, true}, Case{ClipScope::kGlobal, Recipe::kSp, false}}) {
    const auto train = [&, scope = scope, recipe = recipe](const std::vector<int>& widths, int ranks) {
      std::vector<float> moments;
      dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
        TinyModel spec = switchable();
        spec.config.freeze_base = true;
        StepRunnerOptions options = test::tiny_options();
        options.train.recipe = recipe;
        options.optim.clip_norm = 1e-3;  // below every width's
        options.optim.clip_scope = scope;
        TinyRank rank(spec, tokens, comm, options);
        EXPECT_TRUE(rank.run(passes_at(0, widths)).clipped);
        if (comm.rank() != 0) return;
        const ParameterStore& store = rank.model().parameters();
        for (const OwnedState& own : owned_state(store, rank.runner().optimizer()))
          if (store.info(own.id).group == GroupKey(GroupKind::kWidth, 8))
            for (const float m : own.exp_avg) moments.push_back(m * static_cast<float>(widths.size()));
      });
      return moments;
    };
    for (const int ranks : {1, 2}) {
      const std::vector<float> alone = train({8}, ranks), beside = train({8, 2}, ranks);
      EXPECT_FALSE(alone.empty());
      EXPECT_EQ(alone == beside, apart) << enum_name(scope) << ", " << enum_name(recipe) << " on " << ranks;
    }
  }
}

TEST(WidthGroups, EachNormIsClippedByItself) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec = switchable();
  StepRunnerOptions options = test::tiny_options();
  options.optim.clip_norm = 1e-3;
  options.optim.clip_scope = ClipScope::kWidth;
  TinyRank rank(spec, tokens, *comm, options);
  EXPECT_TRUE(rank.run(passes_at(0, {8, 2})).clipped);
  // The first moment of Adam after one step is (1 - beta1) times the clipped gradient.
  std::map<int, double> squares;
  const ParameterStore& store = rank.model().parameters();
  for (const OwnedState& own : owned_state(store, rank.runner().optimizer()))
    for (const float m : own.exp_avg)
      squares[store.info(own.id).group.kind == GroupKind::kWidth ? store.info(own.id).group.bits : 0] +=
          static_cast<double>(m) * m;
  for (const int bits : {0, 2, 8})  // a width has half of the passes, and all others all of them
    EXPECT_NEAR(std::sqrt(squares.at(bits)) / 0.1, bits == 0 ? 1e-3 : 0.5e-3, 1e-6) << bits;
  EXPECT_EQ(squares.at(4), 0.0);
}

// A step that is given up, or whose loss is not finite, leaves every width as it was.
TEST(WidthGroups, ASkippedStepChangesNothing) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec = switchable();
    TinyRank rank(spec, tokens, comm, test::tiny_options());
    rank.step(0, 8, 8);
    rank.step(1, 4, 8);
    const std::vector<float> before = rank.parameters();
    rank.runner().set_loss_hook([](std::int64_t, double) { return std::numeric_limits<double>::quiet_NaN(); });
    EXPECT_TRUE(rank.step(2, 8, 8).skipped);
    EXPECT_EQ(rank.parameters(), before);
  });
}

TEST(WidthGroups, TakeTheMemoryOfOneWidthHoweverManyThereAre) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(4, [&](dist::Communicator& comm) {
    TinyModel spec = switchable();
    spec.quant.widths.clear();
    for (int bits = 2; bits <= 18; ++bits) spec.quant.widths.push_back(bits);
    TinyRank rank(spec, tokens, comm, test::tiny_options());
    const ParameterStore& store = rank.model().parameters();
    for (std::uint64_t step = 0; step < 20; ++step) {
      const int bits = 2 + static_cast<int>(step * 5 % 17);
      rank.step(step, bits, 8);
      for (const FlatGroup& group : store.groups()) {
        if (group.key.kind != GroupKind::kWidth) continue;
        const std::size_t whole = static_cast<std::size_t>(group.layout.elems()) * sizeof(float);
        EXPECT_EQ(group.own.storage().nbytes(), whole / 4) << group.key.bits;
        EXPECT_EQ(group.values.storage().nbytes(), group.key.bits == bits ? whole : 0) << group.key.bits;
      }
    }
  });
}

}  // namespace
}  // namespace qat

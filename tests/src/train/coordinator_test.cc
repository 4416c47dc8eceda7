// What each step is: a pure function of the options and the step.
#include "src/train/coordinator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>
#include <string>

#include "src/schedule/lr_schedule.h"

namespace qat {
namespace {

using ::testing::ElementsAre;

TrainerOptions options() {
  TrainerOptions o;
  o.train = {.steps = 10, .batch_size = 4};
  o.quant.widths = {4, 8, 32};
  o.precision.kind = ScheduleKind::kList;
  o.precision.list = {8, 4, 32};
  o.precision.cycles = 1;
  o.precision.grad_min_bits = 6;
  o.lr = {.peak = 1.0, .min_ratio = 0.0, .warmup_steps = 2, .decay = LrDecay::kLinear};
  o.config_hash = 77;
  return o;
}

RunPosition at(std::int64_t step) { return {.step = step, .samples = 4 * step}; }

std::vector<std::int64_t> steps_with(const TrainerOptions& o, bool dist::StepPlan::*flag) {
  const Coordinator coordinator(o, /*windows_per_epoch=*/100);
  std::vector<std::int64_t> steps;
  for (std::int64_t step = 0; step < o.train.steps; ++step)
    if (coordinator.plan(at(step)).*flag) steps.push_back(step);
  return steps;
}

TEST(Coordinator, PlansWidthsRateAndIdentityOfAStep) {
  const TrainerOptions o = options();
  const Coordinator coordinator(o, 100);
  const LrSchedule rates(o.lr, 10);
  for (std::int64_t step = 0; step < 10; ++step) {
    const dist::StepPlan plan = coordinator.plan(at(step));
    const int bits = step < 4 ? 8 : step < 7 ? 4 : 32;
    EXPECT_EQ(plan.step, static_cast<std::uint64_t>(step));
    EXPECT_EQ(plan.config_hash, 77U);
    const int gradient_bits = bits == 32 ? 32 : 6;  // an unquantized step is so throughout
    EXPECT_THAT(plan.maps, ElementsAre(dist::PlannedWidths{bits, bits, gradient_bits})) << step;
    ASSERT_EQ(plan.updates.size(), 1U);
    EXPECT_THAT(plan.updates[0].passes, ElementsAre(dist::PassPlan{.map = 0}));
    EXPECT_EQ(plan.updates[0].learning_rate, static_cast<float>(rates.at(step))) << step;
  }
}

TEST(Coordinator, FixedActivationBitsHoldInQuantizedStepsOnly) {
  TrainerOptions o = options();
  o.quant.activation_bits = 7;
  const Coordinator coordinator(o, 100);
  EXPECT_EQ(coordinator.plan(at(0)).maps[0].activation_bits, 7);
  EXPECT_EQ(coordinator.plan(at(5)).maps[0].activation_bits, 7);
  EXPECT_EQ(coordinator.plan(at(9)).maps[0].activation_bits, 32);
}

TEST(Coordinator, BlocksAheadInTheScheduleHaveTheirWidthsInThePlan) {
  TrainerOptions o = options();
  o.model = {.preset = "", .n_layer = 2, .n_head = 2, .n_embd = 16, .n_positions = 12, .quantize_lm_head = true};
  o.precision.layer_offset = 3;
  const Coordinator coordinator(o, 100);
  const dist::StepPlan first = coordinator.plan(at(0)), later = coordinator.plan(at(3)), full = coordinator.plan(at(8));
  // 8 in steps 0 to 3, 4 in 4 to 6, 32 in 7 to 9, and again.
  EXPECT_THAT(first.maps, ElementsAre(dist::PlannedWidths{
                              .weight_bits = 8, .activation_bits = 8, .gradient_bits = 6, .block_bits = {8, 8, 4}}));
  EXPECT_THAT(later.maps.at(0).block_bits, ElementsAre(8, 4, 32));
  // A step that counts as unquantized, and has blocks whose gradients are rounded.
  EXPECT_EQ(full.maps.at(0).weight_bits, 32);
  EXPECT_EQ(full.maps.at(0).gradient_bits, 6);
  EXPECT_THAT(full.maps.at(0).block_bits, ElementsAre(32, 8, 4));
}

TEST(Coordinator, AnEpochIsOnePassOverTheWindows) {
  TrainerOptions o = options();
  o.precision.unit = ScheduleUnit::kEpoch;
  const Coordinator coordinator(o, /*windows_per_epoch=*/16);  // 40 samples: two and a half epochs, three units
  for (std::int64_t step = 0; step < 10; ++step)
    EXPECT_EQ(coordinator.plan(at(step)).maps[0].weight_bits, step < 4 ? 8 : step < 8 ? 4 : 32) << step;
}

TEST(Coordinator, EpochsAndSamplesAreCountedFromWhatWasReadWhateverTheBatchWas) {
  TrainerOptions o = options();
  o.precision.unit = ScheduleUnit::kEpoch;
  // Six steps of 4 samples, then four of 8: 56 samples, three and a half epochs of 16, four units over three widths.
  o.train.batch_size = 8;
  const Coordinator coordinator(o, 16, {.step = 6, .samples = 24});
  EXPECT_EQ(coordinator.precision().total_units(), 4);
  EXPECT_EQ(coordinator.plan({.step = 6, .samples = 24}).first_sample, 24U);
  EXPECT_EQ(coordinator.plan({.step = 7, .samples = 32}).maps[0].weight_bits, coordinator.precision().at(2).weight);
}

TEST(Coordinator, EvaluatesAndSavesEverySoManyStepsAndSavesTheLast) {
  using Steps = std::vector<std::int64_t>;
  TrainerOptions o = options();
  EXPECT_EQ(steps_with(o, &dist::StepPlan::evaluate_after), Steps{});
  o.eval.every = 5, o.checkpoint.every = 4;
  EXPECT_EQ(steps_with(o, &dist::StepPlan::evaluate_after), Steps{4});  // the final table follows step 9 anyway
  EXPECT_EQ(steps_with(o, &dist::StepPlan::checkpoint_after), (Steps{3, 7, 9}));
  o.checkpoint.every = 0;
  EXPECT_EQ(steps_with(o, &dist::StepPlan::checkpoint_after), Steps{9});
}

// What the next step's first update has, but where an evaluation comes between, or nothing more.
TEST(Coordinator, APlanSaysWhatTheNextStepBeginsWith) {
  using Maps = std::vector<dist::PlannedWidths>;
  for (const Recipe recipe : {Recipe::kCpt, Recipe::kSpnet, Recipe::kPerMap, Recipe::kSp}) {
    TrainerOptions o = options();
    o.train.recipe = recipe, o.eval.every = 5;
    const Coordinator coordinator(o, 100);
    for (std::int64_t step = 0; step < 9; ++step) {
      const dist::StepPlan plan = coordinator.plan(at(step)), next = coordinator.plan(at(step + 1));
      Maps first;
      for (const dist::PassPlan& pass : next.updates[0].passes)
        if (std::find(first.begin(), first.end(), next.maps[pass.map]) == first.end())
          first.push_back(next.maps[pass.map]);
      EXPECT_EQ(plan.ahead, step == 4 ? Maps() : first) << step;
    }
    EXPECT_EQ(coordinator.plan(at(9)).ahead, Maps());
  }
}

TEST(Coordinator, SpnetIsOneUpdateOfAPassAtEveryWidthByEqualShares) {
  TrainerOptions o = options();
  o.train.recipe = Recipe::kSpnet;
  o.quant.activation_bits = 7;
  const dist::StepPlan plan = Coordinator(o, 100).plan(at(6));
  EXPECT_THAT(plan.maps,
              ElementsAre(dist::PlannedWidths{4, 7, 6}, dist::PlannedWidths{8, 7, 6}, dist::PlannedWidths{32, 32, 32}));
  ASSERT_EQ(plan.updates.size(), 1U);
  EXPECT_EQ(plan.updates[0].learning_rate, static_cast<float>(LrSchedule(o.lr, 10).at(6)));
  ASSERT_EQ(plan.updates[0].passes.size(), 3U);
  for (std::uint32_t i = 0; i < 3; ++i)
    EXPECT_EQ(plan.updates[0].passes[i], (dist::PassPlan{.map = i, .loss = {.cross_entropy = 1.0 / 3.0}}));
  EXPECT_NO_THROW(dist::check(plan));
}

TEST(Coordinator, PerMapIsAnUpdateAtEveryWidth) {
  TrainerOptions o = options();
  o.train.recipe = Recipe::kPerMap;
  const dist::StepPlan plan = Coordinator(o, 100).plan(at(6));
  ASSERT_EQ(plan.updates.size(), 3U);
  for (std::uint32_t i = 0; i < 3; ++i) {
    EXPECT_THAT(plan.updates[i].passes, ElementsAre(dist::PassPlan{.map = i}));
    EXPECT_EQ(plan.updates[i].learning_rate, plan.updates[0].learning_rate);
    EXPECT_EQ(dist::widths_of(plan, plan.updates[i]).weight_bits, o.quant.widths[i]);
  }
  EXPECT_NO_THROW(dist::check(plan));
}

// Passes as text: "4<32": at 4 bits, taught by the pass at 32; "(32)" only teaches.
std::string text_of(const dist::StepPlan& plan, const dist::UpdatePlan& update) {
  std::string text;
  for (const dist::PassPlan& pass : update.passes) {
    const std::string bits = std::to_string(plan.maps[pass.map].weight_bits);
    text += (text.empty() ? "" : " ") + (pass.trains ? bits : "(" + bits + ")");
    for (std::size_t i = 0; i < pass.teachers.size(); ++i)
      text += (i == 0 ? "<" : ",") + std::to_string(plan.maps[update.passes[pass.teachers[i]].map].weight_bits);
  }
  return text;
}

TEST(Coordinator, SpTrainsEveryWidthOnceInARoundAndNoneTwiceInAStep) {
  TrainerOptions o = options();
  o.train.recipe = Recipe::kSp;
  o.train.steps = 400;
  o.quant.widths = {2, 3, 4, 5, 8, 32};
  o.train.students = 2;
  o.distill.temperature = 3.0, o.distill.cross_entropy = 0.25;
  std::map<int, int> times;
  std::set<std::string> kinds;
  for (std::int64_t step = 0; step < 300; step += 3) {
    std::set<int> round;
    for (std::int64_t i = step; i < step + 3; ++i) {
      const dist::StepPlan plan = Coordinator(o, 100).plan(at(i));
      EXPECT_NO_THROW(dist::check(plan));
      ASSERT_EQ(plan.updates.size(), 1U);
      const auto& passes = plan.updates[0].passes;
      ASSERT_EQ(passes.size(), 3U);
      EXPECT_FALSE(passes[0].trains);
      EXPECT_EQ(plan.maps[passes[0].map].weight_bits, 32);
      EXPECT_GT(plan.maps[passes[1].map].weight_bits, plan.maps[passes[2].map].weight_bits);
      for (std::size_t p : {1U, 2U}) {
        EXPECT_EQ(passes[p].loss, (dist::LossWeights{0.125, 0.5, 3.0, 0.0}));
        round.insert(plan.maps[passes[p].map].weight_bits);
        ++times[plan.maps[passes[p].map].weight_bits];
      }
      kinds.insert(text_of(plan, plan.updates[0]));
    }
    EXPECT_EQ(round.size(), 5U) << "all widths in three steps, from " << step;
  }
  for (const auto& [bits, count] : times) EXPECT_NEAR(count, 120, 30) << bits;
  EXPECT_EQ(kinds.size(), 10U) << "every pair";
  o.run.seed = 2;
  EXPECT_NE(Coordinator(o, 100).plan(at(0)).maps, Coordinator(options(), 100).plan(at(0)).maps);
}

// The narrowest in every step; of the others each once in a round.
TEST(Coordinator, SpDrawsASandwich) {
  TrainerOptions o = options();
  o.train.recipe = Recipe::kSp;
  o.train.steps = 400;
  o.quant.widths = {3, 2, 4, 5, 8, 32};
  o.train.students = 3;
  o.train.student_draw = StudentDraw::kSandwich;
  std::set<std::string> kinds;
  for (std::int64_t step = 0; step < 300; step += 2) {
    std::multiset<int> round;
    for (std::int64_t i = step; i < step + 2; ++i) {
      const dist::StepPlan plan = Coordinator(o, 100).plan(at(i));
      EXPECT_NO_THROW(dist::check(plan));
      const auto& passes = plan.updates.at(0).passes;
      ASSERT_EQ(passes.size(), 4U);
      EXPECT_EQ(plan.maps[passes[3].map].weight_bits, 2);
      for (const auto& pass : passes)
        if (pass.trains) round.insert(plan.maps[pass.map].weight_bits);
      kinds.insert(text_of(plan, plan.updates[0]));
    }
    EXPECT_EQ(round, (std::multiset<int>{2, 2, 3, 4, 5, 8})) << step;
  }
  EXPECT_EQ(kinds.size(), 6U) << "every pair of the others";
  o.train.students = 1;  // nothing but the narrowest: refused in a configuration
  o.quant.widths = {4, 32};
  EXPECT_EQ(Coordinator(o, 100).plan(at(7)).updates.at(0).passes.size(), 2U);
}

TEST(Coordinator, AWidthLearnsFromWiderOnesOfItsStepThatHaveNoDropout) {
  TrainerOptions o = options();
  o.train.recipe = Recipe::kInstantnet;
  const auto plan = [&] { return Coordinator(o, 100).plan(at(6)); };
  const auto text = [&] { return text_of(plan(), plan().updates[0]); };
  o.quant.widths = {2, 8, 4};
  EXPECT_EQ(text(), "(32) 8<32 4<32,8 2<32,8,4");
  o.quant.widths = {2, 32, 8};
  EXPECT_EQ(text(), "32 8<32 2<32,8") << "what trains without dropout teaches as well";
  EXPECT_EQ(plan().updates[0].passes[0].loss, (dist::LossWeights{1.0 / 3, 0.0, 1.0, 0.0}));
  o.model.attn_dropout = 0.1;
  EXPECT_EQ(text(), "32 (32) 8<32 (8) 2<32,8");
  EXPECT_NO_THROW(dist::check(plan()));
  o.distill.start_step = 7;
  EXPECT_EQ(text(), "32 8 2");
  EXPECT_EQ(plan().updates[0].passes[1].loss, (dist::LossWeights{1.0 / 3, 0.0, 1.0, 0.0}));
}

TEST(Coordinator, EveryRecipeCanHaveATeacherAtFullWidth) {
  TrainerOptions o = options();
  o.distill.teacher = TeacherChoice::kFull;
  o.distill.features = 0.5, o.distill.feature_layers = {3, 1};
  const auto texts = [&] {
    const dist::StepPlan plan = Coordinator(o, 100).plan(at(6));
    EXPECT_NO_THROW(dist::check(plan));
    std::string all;
    for (const dist::UpdatePlan& update : plan.updates) all += text_of(plan, update) + ";";
    return all;
  };
  o.train.recipe = Recipe::kSpnet;
  EXPECT_EQ(texts(), "(32) 4<32 8<32 32;");
  o.train.recipe = Recipe::kPerMap;
  EXPECT_EQ(texts(), "(32) 4<32;(32) 8<32;32;");
  std::set<std::uint32_t> layers;
  for (std::int64_t step = 0; step < 10; ++step)
    for (const dist::UpdatePlan& update : Coordinator(o, 100).plan(at(step)).updates)
      for (const dist::PassPlan& pass : update.passes)
        layers.insert(pass.feature_layers.begin(), pass.feature_layers.end());
  EXPECT_EQ(layers, (std::set<std::uint32_t>{1, 3}));
  o.distill.feature_pick = FeaturePick::kAll;
  EXPECT_THAT(Coordinator(o, 100).plan(at(6)).updates[0].passes[1].feature_layers, ElementsAre(3U, 1U));
}

// Maps take the widths' place: by recipe, and by the schedules that switch.
TEST(Coordinator, PlansConfiguredMapsByTheirNumber) {
  TrainerOptions o = options();
  o.quant.maps = {"stripe8&4", "wide: 8"};
  const Gpt2Config model{.preset = "", .n_layer = 2, .n_head = 2, .n_embd = 16, .n_positions = 12, .vocab_size = 29};
  const std::vector<ConfiguredMap> maps = configured_maps(model, o.quant, /*gradient_bits=*/6);
  EXPECT_EQ(maps[1].name, "wide");
  const dist::PlannedWidths stripe{4, 4, 6, 0}, wide{8, 8, 6, 1};
  for (const Recipe recipe : {Recipe::kSpnet, Recipe::kPerMap}) {
    o.train.recipe = recipe;
    const dist::StepPlan plan = Coordinator(o, 100, {}, maps).plan(at(6));
    EXPECT_THAT(plan.maps, ElementsAre(stripe, wide));
    EXPECT_EQ(plan.updates.size(), recipe == Recipe::kSpnet ? 1U : 2U);
    EXPECT_EQ(plan.updates[0].passes.size(), recipe == Recipe::kSpnet ? 2U : 1U);
    EXPECT_EQ(dist::decode_step_plan(dist::encode(plan)), plan);
  }
  o.train.recipe = Recipe::kCpt;
  o.precision.kind = ScheduleKind::kScheduled, o.precision.pattern = {"wide:2", "stripe8&4:1"};
  o.precision.static_after = 5, o.precision.static_at = "wide";
  const Coordinator coordinator(o, 100, {}, maps);
  for (std::int64_t step = 0; step < 10; ++step)
    EXPECT_THAT(coordinator.plan(at(step)).maps, ElementsAre(step % 3 == 2 && step < 5 ? stripe : wide)) << step;
}

TEST(Coordinator, SwitchesBetweenWidthsBySeed) {
  TrainerOptions o = options();
  o.precision.kind = ScheduleKind::kRandom, o.precision.switch_interval = 1, o.precision.switch_probability = 1.0;
  std::set<std::vector<int>> sequences;
  for (const std::uint64_t seed : {1, 2, 3}) {
    o.run.seed = seed;
    const Coordinator coordinator(o, 100), later(o, 100, at(7));
    std::vector<int> bits;
    for (std::int64_t step = 0; step < 10; ++step) bits.push_back(coordinator.plan(at(step)).maps[0].weight_bits);
    EXPECT_EQ(later.plan(at(8)), coordinator.plan(at(8)));
    sequences.insert(bits);
  }
  EXPECT_GT(sequences.size(), 1U);
}

// Whatever was planned before, and wherever the process took the run up.
TEST(Coordinator, AResumedRunPlansAsTheUninterruptedOne) {
  for (const Recipe recipe : {Recipe::kCpt, Recipe::kSpnet, Recipe::kPerMap, Recipe::kSp, Recipe::kInstantnet}) {
    TrainerOptions o = options();
    o.train.recipe = recipe;
    const Coordinator whole(o, 100), resumed(o, 100, at(6));
    std::vector<dist::StepPlan> plans;
    for (std::int64_t step = 0; step < 10; ++step) plans.push_back(whole.plan(at(step)));
    for (std::int64_t step = 9; step >= 6; --step)
      EXPECT_EQ(resumed.plan(at(step)), plans[static_cast<std::size_t>(step)]) << step;
    EXPECT_NE(plans[2], plans[7]);
  }
}

TEST(Coordinator, AWidthsFactorMultipliesTheScheduledRate) {
  TrainerOptions o = options();
  o.lr.scale_preset = LrScale::kUp;
  o.lr.scale_per_width = {{.bits = 32, .factor = 0.5}};
  const LrSchedule rates(o.lr, 10);
  const auto rate = [&](std::int64_t step, double factor) { return static_cast<float>(rates.at(step) * factor); };
  const Coordinator scheduled(o, 100);
  for (const auto& [step, factor] : {std::pair<std::int64_t, double>{1, 2.0}, {5, 4.0}, {8, 0.5}})
    EXPECT_EQ(scheduled.plan(at(step)).updates[0].learning_rate, rate(step, factor)) << step;
  // Of several passes: what all widths use by their mean, what a width has for itself by its own.
  o.train.recipe = Recipe::kSpnet;
  const dist::StepPlan plan = Coordinator(o, 100).plan(at(6));
  ASSERT_EQ(plan.updates.size(), 1U);
  EXPECT_EQ(plan.updates[0].learning_rate, rate(6, 6.5 / 3.0));
  EXPECT_EQ(dist::rate_of(plan.updates[0], 4), rate(6, 4.0));
  EXPECT_EQ(dist::rate_of(plan.updates[0], 8), rate(6, 2.0));
  EXPECT_EQ(dist::rate_of(plan.updates[0], 32), rate(6, 0.5));
  EXPECT_NO_THROW(dist::check(plan));
  o.train.recipe = Recipe::kPerMap;
  const dist::StepPlan each = Coordinator(o, 100).plan(at(6));
  ASSERT_EQ(each.updates.size(), 3U);
  const std::vector<double> factors = {4.0, 2.0, 0.5};
  for (std::size_t i = 0; i < factors.size(); ++i) EXPECT_EQ(each.updates[i].learning_rate, rate(6, factors[i])) << i;
  // Without factors nothing is said of single widths.
  o.lr.scale_preset = LrScale::kNone;
  o.lr.scale_per_width = {};
  EXPECT_TRUE(Coordinator(o, 100).plan(at(6)).updates[0].width_rates.empty());
}

}  // namespace
}  // namespace qat

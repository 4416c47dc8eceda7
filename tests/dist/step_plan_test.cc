// A plan as bytes: what goes in comes out, and nothing else is taken for a plan.
#include "dist/control/step_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>
#include <string>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

using ::testing::HasSubstr;

// Two updates; in the second, one pass teaches two others.
StepPlan example() {
  StepPlan plan{.step = 7, .config_hash = 0xFEDCBA9876543210, .first_sample = 1U << 31U};
  plan.maps = {{2, 8, 6}, {32, 32, 32}, {18, 9, 8, /*bitmap=*/4}, {.weight_bits = 4, .block_bits = {4, 8, 32}}};
  plan.updates.push_back({.passes = {{.map = 2}}, .learning_rate = 1e-3F});
  plan.updates.push_back(
      {.passes = {{.map = 1, .trains = false},
                  {.map = 0, .loss = {0.25, 0.75, 4.0}, .teachers = {0}},
                  {.map = 2, .loss = {0.0, 1.0, 1.0, 1e-7}, .teachers = {0, 1}, .feature_layers = {3, 0}}},
       .learning_rate = 0.0F,
       .width_rates = {{2, 0.5F}, {32, 0.25F}}});
  plan.checkpoint_after = true;
  plan.ahead = {{6, 8, 8}, {.weight_bits = 8, .block_bits = {8, 6}}};
  return plan;
}

std::string refusal(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kInternal);
    return error.what();
  }
  return "";
}

std::string refusal_of(const StepPlan& plan) {
  return refusal([&] { (void)decode_step_plan(encode(plan)); });
}

TEST(StepPlan, ComesOutAsItWentIn) {
  EXPECT_EQ(decode_step_plan(encode(example())), example());
  StepPlan smallest{.maps = {{8, 8, 8}}, .updates = {{.passes = {{.map = 0}}}}};
  EXPECT_EQ(decode_step_plan(encode(smallest)), smallest);
  for (bool StepPlan::*flag : {&StepPlan::evaluate_after, &StepPlan::checkpoint_after}) {
    StepPlan plan = smallest;
    plan.*flag = true;
    EXPECT_EQ(decode_step_plan(encode(plan)), plan);
    EXPECT_NE(plan, smallest);
  }
}

TEST(StepPlan, NoBeginningOfItAndNoMoreThanItIsAPlan) {
  std::vector<std::uint8_t> bytes = encode(example());
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    const std::vector<std::uint8_t> cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(length));
    EXPECT_NE(refusal([&] { (void)decode_step_plan(cut); }), "") << length;
  }
  bytes.push_back(0);
  EXPECT_THAT(refusal([&] { (void)decode_step_plan(bytes); }), HasSubstr("1 bytes after its end"));
}

TEST(StepPlan, AnotherVersionAndCountsBeyondTheMessageAreRefused) {
  std::vector<std::uint8_t> bytes = encode(example());
  ++bytes[0];
  EXPECT_THAT(refusal([&] { (void)decode_step_plan(bytes); }), HasSubstr("version"));
  bytes = encode(example());
  constexpr std::size_t kCountOfMaps = 4 + 3 * 8;
  for (std::size_t i = 0; i < 4; ++i) bytes[kCountOfMaps + i] = 0xFF;
  EXPECT_THAT(refusal([&] { (void)decode_step_plan(bytes); }), HasSubstr("4294967295 entries"));
}

// Whatever a byte becomes, it is another plan in order, or an error: never a crash, never memory without end.
TEST(StepPlan, DamagedBytesAreAnErrorOrAnotherPlan) {
  const std::vector<std::uint8_t> whole = encode(example());
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::uint8_t> bytes = whole;
    for (int flips = 1 + i % 3; flips > 0; --flips)
      bytes[random() % bytes.size()] = static_cast<std::uint8_t>(random());
    try {
      const StepPlan plan = decode_step_plan(bytes);
      EXPECT_NO_THROW(check(plan));
      EXPECT_EQ(encode(plan), bytes);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kInternal);
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

TEST(StepPlan, RefusesWhatIsNotThere) {
  const auto with = [](const std::function<void(StepPlan&)>& change) {
    StepPlan plan = example();
    change(plan);
    return refusal_of(plan);
  };
  EXPECT_EQ(with([](StepPlan&) {}), "");
  EXPECT_THAT(with([](StepPlan& p) { p.updates.clear(); }), HasSubstr("no update"));
  EXPECT_THAT(with([](StepPlan& p) { p.updates[0].passes.clear(); }), HasSubstr("without a pass that trains"));
  EXPECT_THAT(with([](StepPlan& p) { p.updates[0].passes[0].trains = false; }),
              HasSubstr("without a pass that trains"));
  EXPECT_THAT(with([](StepPlan& p) { p.updates[1].passes[0].map = 4; }), HasSubstr("map 4 in a pass, of 4"));
  EXPECT_THAT(with([](StepPlan& p) { p.updates[1].passes[1].teachers = {1}; }), HasSubstr("teacher 1 of pass 1"));
  EXPECT_THAT(with([](StepPlan& p) { p.maps[0].weight_bits = 0; }), HasSubstr("a width of 0 bits"));
  EXPECT_THAT(with([](StepPlan& p) { p.maps[0].activation_bits = 1; }), HasSubstr("a width of 1 bits"));
  EXPECT_THAT(with([](StepPlan& p) { p.maps[0].gradient_bits = 20; }), HasSubstr("a width of 20 bits"));
  EXPECT_THAT(with([](StepPlan& p) { p.maps[1].bitmap = -2; }), HasSubstr("configured map -2"));
  EXPECT_THAT(with([](StepPlan& p) { p.maps[3].block_bits[2] = 33; }), HasSubstr("a width of 33 bits"));
  EXPECT_THAT(with([](StepPlan& p) { p.maps[3].bitmap = 0; }), HasSubstr("a configured map with widths of blocks"));
  for (const float rate : {NAN, INFINITY, -1.0F}) {
    EXPECT_THAT(with([&](StepPlan& p) { p.updates[0].learning_rate = rate; }), HasSubstr("learning rate"));
    EXPECT_THAT(with([&](StepPlan& p) { p.updates[1].width_rates[1].learning_rate = rate; }),
                HasSubstr("learning rate"));
  }
  EXPECT_THAT(with([](StepPlan& p) { p.updates[1].width_rates[1].weight_bits = 2; }),
              HasSubstr("two rates for 2 bits"));
  EXPECT_THAT(with([](StepPlan& p) { p.updates[1].width_rates[1].weight_bits = 0; }), HasSubstr("a rate for 0 bits"));
  for (const double weight : {static_cast<double>(NAN), -1.0}) {
    EXPECT_THAT(with([&](StepPlan& p) { p.updates[0].passes[0].loss.cross_entropy = weight; }), HasSubstr("weights"));
    EXPECT_THAT(with([&](StepPlan& p) { p.updates[0].passes[0].loss.distillation = weight; }), HasSubstr("weights"));
    EXPECT_THAT(with([&](StepPlan& p) { p.updates[0].passes[0].loss.temperature = weight; }), HasSubstr("weights"));
  }
  EXPECT_THAT(with([](StepPlan& p) { p.updates[0].passes[0].loss.temperature = 0.0; }), HasSubstr("weights"));
}

TEST(StepPlan, AnUpdateIsKnownByItsFirstPassThatTrains) {
  const StepPlan plan = example();
  EXPECT_EQ(widths_of(plan, plan.updates[0]), plan.maps[2]);
  EXPECT_EQ(widths_of(plan, plan.updates[1]), plan.maps[0]);
}

TEST(StepPlan, AWidthsOwnParametersHaveTheirRateOrTheUpdates) {
  const StepPlan plan = example();
  EXPECT_EQ(rate_of(plan.updates[0], 2), 1e-3F);
  EXPECT_EQ(rate_of(plan.updates[1], 2), 0.5F);
  EXPECT_EQ(rate_of(plan.updates[1], 18), 0.0F);
}

}  // namespace
}  // namespace qat::dist

// Steps and runs whose passes learn from others: the same on any number of ranks and threads, and to some effect.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <set>

#include "tests/support/tiny_training.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;
using test::TrainerTest;
namespace fs = std::filesystem;

// A frozen model, each width with its own adapters and norms.
TinyModel switchable_model() {
  TinyModel spec;
  spec.quant.widths = {2, 4, 8, 32};
  spec.config.freeze_base = true;
  spec.lora.slots = spec.config.norm_slots = Slots::kPerWidth;
  return spec;
}

// The pass at 32 bits teaches one at 8, and both teach one at 2.
dist::StepPlan cascade(std::uint64_t step) {
  return {.step = step,
          .maps = {{32, 32, 32}, {8, 8, 8}, {2, 2, 8}},
          .updates = {
              {.passes = {{.map = 0, .trains = false},
                          {.map = 1, .loss = {0.0, 0.5, 2.0, 0.0}, .teachers = {0}},
                          {.map = 2, .loss = {0.1, 0.5, 2.0, 0.2}, .teachers = {0, 1}, .feature_layers = {2, 1, 0}}},
               .learning_rate = 1e-2F}}};
}

struct Cascade {
  std::vector<std::vector<PassLosses>> losses;  // by step
  std::vector<double> totals, norms;
  std::vector<float> parameters;
};

Cascade train_cascade(int ranks, int threads = 1, int steps = 3, std::int64_t micro_batch = 2) {
  const TokenSource tokens = test::tiny_tokens();
  Cascade out;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    TinyModel spec = switchable_model();
    StepRunnerOptions options = test::tiny_options();
    options.threads = threads;
    options.train.micro_batch_size = micro_batch;
    TinyRank rank(spec, tokens, comm, options);
    Cascade mine;
    for (int step = 0; step < steps; ++step) {
      const StepOutcome outcome = rank.run(cascade(static_cast<std::uint64_t>(step)));
      mine.losses.push_back(outcome.updates.at(0).losses);
      mine.totals.push_back(outcome.loss);
      mine.norms.push_back(outcome.grad_norm);
    }
    mine.parameters = rank.parameters();
    if (comm.rank() == 0) out = mine;
  });
  return out;
}

std::vector<double> flat(const Cascade& trained) {
  std::vector<double> all;
  for (const auto& step : trained.losses)
    for (const PassLosses& one : step) all.insert(all.end(), {one.cross_entropy, one.distillation, one.features});
  return all;
}

TEST(DistillSteps, HaveTheSameBitsOnAnyPowerOfTwoOfRanksAndAnyThreads) {
  const Cascade one = train_cascade(1);
  const auto expect_same = [&](const Cascade& other, const std::string& what) {
    EXPECT_EQ(flat(other), flat(one)) << what;
    EXPECT_EQ(other.totals, one.totals) << what;
    EXPECT_EQ(other.norms, one.norms) << what;
    EXPECT_EQ(other.parameters, one.parameters) << what;
  };
  for (const int ranks : {2, 4, 8}) expect_same(train_cascade(ranks), std::to_string(ranks) + " ranks");
  expect_same(train_cascade(1, 3), "threads");
  expect_same(train_cascade(2, 2), "ranks and threads");
}

TEST(DistillSteps, LossesAreMeansOverTheGlobalBatchByTheirWeights) {
  const Cascade small = train_cascade(1, 1, 1), large = train_cascade(1, 1, 1, 16);
  const std::vector<PassLosses>& losses = small.losses[0];
  ASSERT_EQ(losses.size(), 3U);
  EXPECT_EQ(losses[0].cross_entropy, 0.0);
  EXPECT_GT(losses[1].cross_entropy, 1.0);
  EXPECT_EQ(losses[1].features, 0.0);
  EXPECT_GT(losses[2].distillation, std::abs(losses[1].distillation)) << "two teachers, and two bits";
  EXPECT_GT(losses[2].features, 0.0);
  const double total = 0.5 * losses[1].distillation + 0.1 * losses[2].cross_entropy + 0.5 * losses[2].distillation +
                       0.2 * losses[2].features;
  EXPECT_NEAR(small.totals[0], total, 1e-12);
  const std::vector<double> a = flat(small), b = flat(large);
  for (std::size_t i = 0; i < a.size(); ++i) EXPECT_NEAR(a[i], b[i], 1e-4 * std::abs(a[i]) + 1e-7) << i;
}

TEST(DistillSteps, StudentsComeNearerToATeacherThatStaysAsItIs) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(1, [&](dist::Communicator& comm) {
    TinyModel spec = switchable_model();
    StepRunnerOptions options = test::tiny_options();
    TinyRank rank(spec, tokens, comm, options);
    // Far from what it starts with, where all distributions are alike.
    torch::manual_seed(3);
    for (int id = 0; id < rank.model().parameters().count(); ++id)
      if (const ParameterInfo& info = rank.model().parameters().info(id); !info.trainable && info.shape.size() == 2) {
        const at::NoGradGuard no_grad;
        at::Tensor(rank.model().parameters().tensor(id)).normal_(0.0, 0.3);
      }
    const auto of_full = [&] {
      std::vector<float> all;
      for (int id = 0; id < rank.model().parameters().count(); ++id) {
        const std::string& name = rank.model().parameters().info(id).name;
        if (name.find(".w8.") != std::string::npos || name.find(".w2.") != std::string::npos) continue;
        const std::vector<float> values = rank.model().parameters().host_values(id);
        all.insert(all.end(), values.begin(), values.end());
      }
      return all;
    };
    const std::vector<float> before = of_full();
    std::vector<PassLosses> first, last;
    for (std::uint64_t step = 0; step < 60; ++step) {
      last = rank.run(cascade(step)).updates.at(0).losses;
      if (step == 0) first = last;
    }
    EXPECT_LT(last[2].distillation, 0.8 * first[2].distillation);
    EXPECT_LT(last[2].features, first[2].features);
    EXPECT_EQ(of_full(), before);
  });
}

class DistillRun : public TrainerTest {
 protected:
  TrainerOptions with(Recipe recipe, const std::string& dir) const {
    TrainerOptions o = options(dir, 6);
    o.train.recipe = recipe;
    o.quant.widths = {8, 3, 4};
    o.eval.bits = {32, 8, 3};
    o.distill.temperature = 2.0;
    o.distill.features = 0.1;
    return o;
  }
  std::vector<Value> lines(const std::string& dir) const {
    std::ifstream in(root_ / dir / "metrics.jsonl");
    std::vector<Value> all;
    for (std::string line; std::getline(in, line);) all.push_back(parse_json(line, "metrics"));
    return all;
  }
};

TEST_F(DistillRun, MetricsSayWhatEachPassLearns) {
  TrainerOptions o = with(Recipe::kSp, "sp");
  o.distill.start_step = 1;
  EXPECT_TRUE(train(o, 2).result.finished);
  const std::vector<Value> steps = lines("sp");
  ASSERT_EQ(steps.size(), 6U);
  ASSERT_EQ(steps[0].at("passes").as_array().size(), 2U) << "nobody teaches yet";
  EXPECT_EQ(steps[0].at("passes").as_array()[0].find("distillation"), nullptr);
  std::set<std::int64_t> widths;
  for (std::size_t step = 1; step < 6; ++step) {
    const auto& passes = steps[step].at("passes").as_array();
    ASSERT_EQ(passes.size(), 3U);
    EXPECT_EQ(passes[0].at("weight_bits").as_int(), 32);
    EXPECT_EQ(passes[0].find("loss"), nullptr) << "it only teaches";
    double total = 0.0;
    for (const std::size_t pass : {1U, 2U}) {
      widths.insert(passes[pass].at("weight_bits").as_int());
      total += 0.5 * (passes[pass].at("loss").as_double() + passes[pass].at("distillation").as_double() +
                      0.1 * passes[pass].at("features").as_double());
    }
    EXPECT_NEAR(steps[step].at("loss").as_double(), total, 1e-9);
    EXPECT_LT(steps[step].at("bitops_ratio").as_double(), 1.0);
  }
  EXPECT_EQ(widths, (std::set<std::int64_t>{3, 4, 8}));
}

TEST_F(DistillRun, AResumedRunIsTheUninterruptedOne) {
  for (const Recipe recipe : {Recipe::kSp, Recipe::kInstantnet}) {
    const std::string name(enum_name(recipe));
    TrainerOptions whole = with(recipe, name + " whole");
    whole.distill.teacher_cross_entropy = recipe == Recipe::kSp ? 0.5 : 0.0;
    whole.checkpoint.every = 3, whole.checkpoint.keep = 0;
    const End end = train(whole, 2);
    TrainerOptions rest = whole;
    rest.run.dir = with(recipe, name + " rest").run.dir;
    fs::create_directories(fs::path(rest.run.dir) / "checkpoints");
    fs::copy(fs::path(whole.run.dir) / "checkpoints/step_00000003",
             fs::path(rest.run.dir) / "checkpoints/step_00000003", fs::copy_options::recursive);
    EXPECT_EQ(train(rest, 2).parameters, end.parameters) << name;
  }
}

TEST_F(DistillRun, OneTaughtPassHasTheSameBitsOnOneTwoAndFourRanks) {
  for (const Recipe recipe : {Recipe::kSp, Recipe::kCpt, Recipe::kPerMap}) {
    const auto run = [&](int ranks) {
      TrainerOptions o = with(recipe, std::string(enum_name(recipe)) + std::to_string(ranks));
      o.train.students = 1;
      o.distill.teacher = TeacherChoice::kFull;
      o.precision.min_bits = 3, o.precision.max_bits = 8;
      return train(o, ranks).parameters;
    };
    const std::vector<float> one = run(1);
    for (const int ranks : {2, 4}) EXPECT_EQ(run(ranks), one) << enum_name(recipe) << " on " << ranks;
  }
}

}  // namespace
}  // namespace qat

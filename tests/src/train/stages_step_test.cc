// Steps on grids of replicas and stages: whatever the grid, the bits of one rank.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>
#include <string>

#include "dist/comm/agree.h"
#include "src/train/owned_state.h"
#include "src/train/replica_check.h"
#include "src/train/step_runner.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using dist::PipelineSchedule;
using test::TinyModel;
using test::TinyRank;

struct Layout {
  int data = 1;
  int pipeline = 1;
  int chunks = 1;  // a stage: more than one is interleaved
};

std::string name_of(const Layout& layout) {
  return std::to_string(layout.data) + " x " + std::to_string(layout.pipeline) +
         (layout.chunks == 1 ? "" : " of " + std::to_string(layout.chunks) + " chunks");
}

// Every way to lay 1, 2, 4 and 8 ranks out.
std::vector<Layout> layouts() {
  std::vector<Layout> all;
  for (const int ranks : {1, 2, 4, 8})
    for (int pipeline = 1; pipeline <= ranks; pipeline *= 2) all.push_back({ranks / pipeline, pipeline});
  return all;
}

// What a run leaves, of all ranks.
struct Trained {
  std::vector<double> losses, norms;
  std::vector<bool> clipped;
  std::map<std::string, std::vector<float>> parameters, first_moments;  // by name
  std::map<std::string, std::int64_t> updates;
  bool operator==(const Trained&) const = default;
};

// Of a rank's stage; a copy is not counted, but must be equal.
void collect(TinyRank& rank, Trained& run, std::map<std::string, std::vector<float>>& copies) {
  rank.hold_everything();
  const ParameterStore& store = rank.model().parameters();
  for (int id = 0; id < store.count(); ++id)
    (store.info(id).copy ? copies : run.parameters)[store.info(id).name] = store.host_values(id);
  for (const OwnedState& own : owned_state(store, rank.runner().optimizer())) {
    std::vector<float>& moments = run.first_moments[store.info(own.id).name];
    moments.resize(static_cast<std::size_t>(store.info(own.id).elems));
    std::copy(own.exp_avg.begin(), own.exp_avg.end(), moments.begin() + own.first);
  }
  std::size_t next = 0;
  for (const ParameterInfo& info : store.infos())
    if (info.trainable) run.updates[info.name] = rank.runner().optimizer().steps()[next++];
}

struct Setting {
  StepRunnerOptions options = test::tiny_options();
  bool tied = true;
  bool quantized_head = false;
  double dropout = 0.1;
  bool freeze_base = false;
  Slots norm_slots = Slots::kShared;
  std::vector<dist::StepPlan> plans{};
};

dist::StepPlan step_at(std::uint64_t step, std::vector<int> bits) {
  dist::StepPlan plan{.step = step, .updates = {{.passes = {}, .learning_rate = 1e-2F}}};
  for (const int width : bits) {
    plan.updates[0].passes.push_back({.map = static_cast<std::uint32_t>(plan.maps.size())});
    plan.maps.push_back({.weight_bits = width, .activation_bits = width, .gradient_bits = width == 32 ? 32 : 8});
  }
  return plan;
}

Trained run_on(const Layout& layout, const Setting& setting,
               const std::function<void(TinyRank&, const dist::Grid&)>& prepare = {}) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens();
  Trained run;
  std::mutex mutex;
  std::map<std::string, std::vector<float>> copies;
  dist::run_local_ranks(layout.data * layout.pipeline, [&](dist::Communicator& world) {
    const auto place = dist::ProcessGrid::make(world.size(), world.rank(), layout.data, layout.pipeline);
    const dist::GridGroups groups = dist::make_groups(place, world);
    const dist::Grid grid = layout.pipeline == 1 ? dist::Grid(world) : dist::Grid(world, groups);
    TinyModel spec;
    spec.config.n_layer = 8;
    spec.config.tie_lm_head = setting.tied, spec.config.quantize_lm_head = setting.quantized_head;
    spec.config.freeze_base = setting.freeze_base;
    spec.config.norm_slots = setting.norm_slots;
    spec.config.embd_dropout = spec.config.attn_dropout = spec.config.resid_dropout = setting.dropout;
    StepRunnerOptions options = setting.options;
    if (layout.chunks > 1) options.schedule = PipelineSchedule::kInterleaved;
    TinyRank rank(spec, tokens, grid, options, /*mode=*/{}, layout.chunks);
    if (prepare) prepare(rank, grid);
    for (const dist::StepPlan& plan : setting.plans) {
      const StepOutcome outcome = rank.run(plan);
      const std::lock_guard lock(mutex);
      std::int64_t buckets = 0;
      for (const FlatGroup& group : rank.model().parameters().groups()) buckets += std::ssize(group.layout.buckets());
      EXPECT_EQ(outcome.wire.early_buckets, setting.options.early ? buckets : 0);
      if (world.rank() == 0) {
        run.losses.push_back(outcome.loss), run.norms.push_back(outcome.grad_norm);
        run.clipped.push_back(outcome.clipped);
      } else {
        // Every rank knows what rank 0 does.
        EXPECT_TRUE(std::isfinite(outcome.loss) || outcome.skipped);
      }
    }
    rank.hold_everything();
    const std::lock_guard lock(mutex);
    if (grid.data_rank() == 0) collect(rank, run, copies);
    if (grid.data_rank() != 0) {
      // Moments of other replicas' shards.
      for (const OwnedState& own : owned_state(rank.model().parameters(), rank.runner().optimizer())) {
        const ParameterInfo& info = rank.model().parameters().info(own.id);
        std::vector<float>& moments = run.first_moments[info.name];
        moments.resize(static_cast<std::size_t>(info.elems));
        std::copy(own.exp_avg.begin(), own.exp_avg.end(), moments.begin() + own.first);
      }
    }
  });
  EXPECT_EQ(copies.size(), layout.pipeline > 1 && setting.tied ? 1U : 0U);
  for (const auto& [name, values] : copies) EXPECT_EQ(values, run.parameters.at(name)) << name;
  return run;
}

std::vector<dist::StepPlan> some_steps() {
  std::vector<dist::StepPlan> plans;
  const std::vector<int> widths = {3, 8, 32};
  for (std::size_t step = 0; step < widths.size(); ++step) plans.push_back(step_at(step, {widths[step]}));
  return plans;
}

void expect_all_equal(const Setting& setting, const std::vector<Layout>& on, const Layout& as = {}) {
  const Trained one = run_on(as, setting);
  ASSERT_EQ(one.losses.size(), setting.plans.size());
  EXPECT_NE(one.losses.front(), one.losses.back());
  for (const Layout& layout : on) {
    SCOPED_TRACE(name_of(layout));
    const Trained many = run_on(layout, setting);
    EXPECT_EQ(many.losses, one.losses);
    EXPECT_EQ(many.norms, one.norms);
    EXPECT_EQ(many.clipped, one.clipped);
    EXPECT_EQ(many.updates, one.updates);
    EXPECT_TRUE(many.parameters == one.parameters);
    EXPECT_TRUE(many.first_moments == one.first_moments);
  }
}

TEST(StagesStep, EveryGridOfEightRanksHasTheBitsOfOne) {
  for (const bool tied : {true, false}) {
    Setting setting{.tied = tied, .plans = some_steps()};
    setting.options.optim.clip_norm = 0.5;  // of all of these steps
    SCOPED_TRACE(tied ? "tied" : "untied");
    expect_all_equal(setting, layouts());
  }
}

TEST(StagesStep, GpipeAndAQuantizedHeadHaveThemToo) {
  Setting setting{.quantized_head = true, .plans = some_steps()};
  setting.options.schedule = PipelineSchedule::kGpipe;
  expect_all_equal(setting, {{1, 2}, {2, 4}, {1, 8}});
}

// Chunks that lie apart, up to a block each, with numbers of micro-batches that stages do not divide.
TEST(StagesStep, SeveralChunksAStageHaveThemToo) {
  const std::vector<Layout> on = {{1, 2, 2}, {1, 2, 3}, {1, 2, 4}, {1, 3, 2}, {1, 4, 2}, {2, 2, 2}, {2, 4, 2}};
  for (const bool tied : {true, false}) {
    Setting setting{.tied = tied, .quantized_head = tied, .plans = some_steps()};
    setting.options.optim.clip_norm = 0.5;
    SCOPED_TRACE(tied ? "tied" : "untied");
    expect_all_equal(setting, on);
  }
}

TEST(StagesStep, SeveralChunksAndAnyNumberOfMicroBatchesHaveThem) {
  for (const auto& [batch, micro_batch] : {std::pair{2, 2}, {2, 1}, {6, 2}, {10, 2}}) {
    SCOPED_TRACE(std::to_string(batch / micro_batch) + " micro-batches");
    Setting setting{.plans = some_steps()};
    setting.options.train = {.batch_size = batch, .micro_batch_size = micro_batch};
    setting.options.optim.clip_norm = 0.5;
    expect_all_equal(setting, {{1, 2, 2}, {1, 3, 2}, {1, 4, 2}});
  }
  // Replicas of three micro-batches each.
  Setting setting{.plans = some_steps()};
  setting.options.train = {.batch_size = 6, .micro_batch_size = 1};
  expect_all_equal(setting, {{2, 2, 2}, {2, 4, 2}}, /*as=*/{2, 1});
  setting.options.train.accumulate = Accumulate::kRunning;
  expect_all_equal(setting, {{2, 2, 2}}, /*as=*/{2, 1});
}

// One micro-batch, fewer than there are stages, and eight of a single sequence.
TEST(StagesStep, AnyNumberOfMicroBatchesHasThem) {
  for (const auto& [batch, micro_batch] : {std::pair{2, 2}, {2, 1}, {6, 2}, {8, 1}}) {
    SCOPED_TRACE(std::to_string(batch / micro_batch) + " micro-batches");
    Setting setting{.plans = some_steps()};
    setting.options.train = {.batch_size = batch, .micro_batch_size = micro_batch};
    setting.options.optim.clip_norm = 0.5;
    expect_all_equal(setting, {{1, 2}, {1, 4}, {1, 8}});
  }
}

// A rank's running sum takes the passes in the same order.
TEST(StagesStep, RunningSumsHaveThem) {
  Setting setting{.plans = some_steps()};
  setting.options.train.accumulate = Accumulate::kRunning;
  expect_all_equal(setting, {{1, 2}, {1, 8}});
  expect_all_equal(setting, {{2, 2}, {2, 4}}, /*as=*/{2, 1});
}

// A stage's buckets go when its last micro-batch completes them, those of a later chunk before an earlier one's, while
// the other stages are at work: nobody waits for ever, and the table, which is complete last, goes last.
TEST(StagesStep, GradientsThatAreExchangedDuringThePassHaveThemToo) {
  for (const bool tied : {true, false}) {
    Setting setting{.tied = tied, .plans = some_steps()};
    setting.options.early = true;
    SCOPED_TRACE(tied ? "tied" : "untied");
    expect_all_equal(setting, {{2, 1}, {2, 2}, {4, 2}, {2, 4}, {2, 2, 2}, {2, 4, 2}});
    setting.options.schedule = PipelineSchedule::kGpipe;
    expect_all_equal(setting, {{2, 2}, {2, 4}});
    setting.options.schedule = PipelineSchedule::kOneFOneB;
    setting.plans = {step_at(0, {8, 3}), step_at(1, {8, 3, 32})};  // the last pass alone completes them
    expect_all_equal(setting, {{2, 2}, {2, 4}, {2, 2, 2}}, /*as=*/{2, 1});
  }
}

// Several passes an update, parameters of single widths, a base that rests: groups that stages have or lack.
TEST(StagesStep, PassesOfSeveralWidthsHaveThem) {
  for (const bool frozen : {false, true}) {
    Setting setting{.freeze_base = frozen,
                    .norm_slots = Slots::kPerWidth,
                    .plans = {step_at(0, {8, 3}), step_at(1, {3}), step_at(2, {8, 3, 32})}};
    setting.options.optim.clip_norm = 0.01;
    setting.options.optim.clip_scope = frozen ? ClipScope::kWidth : ClipScope::kGlobal;
    SCOPED_TRACE(frozen ? "frozen" : "trained");
    expect_all_equal(setting, {{1, 2}, {1, 4}, {1, 2, 3}});
    // Replicas add such passes up in another order than one, but stages change nothing.
    expect_all_equal(setting, {{2, 2}, {2, 4}, {2, 2, 2}}, /*as=*/{2, 1});
  }
}

// Something that is not a number on one stage of one replica: nobody changes a parameter.
TEST(StagesStep, OneStageThatIsNotFiniteSkipsTheStepOfAll) {
  Setting setting{.plans = {step_at(0, {8})}};
  const Trained before = run_on({}, {.plans = {}});
  for (const int broken : {0, 1, 5}) {
    const Trained after = run_on({2, 4}, setting, [&](TinyRank& rank, const dist::Grid& grid) {
      if (grid.world().rank() != broken) return;
      rank.runner().set_gradient_hook([](std::int64_t, std::int64_t micro_batch, int id, const at::Tensor& gradient) {
        if (micro_batch % 4 == 1 && id == 2) gradient.view(-1)[0] = std::nanf("");
      });
    });
    EXPECT_TRUE(std::isnan(after.norms[0])) << broken;
    EXPECT_TRUE(after.parameters == before.parameters) << broken;
  }
}

TEST(StagesStep, AReplicaThatStandsApartIsNamedWithItsStage) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(6, [&](dist::Communicator& world) {
    const dist::GridGroups groups = dist::make_groups(dist::ProcessGrid::make(6, world.rank(), 3, 2), world);
    const dist::Grid grid(world, groups);
    TinyModel spec;
    StepRunnerOptions options = test::tiny_options();
    options.train = {.batch_size = 6, .micro_batch_size = 2};
    TinyRank rank(spec, tokens, grid, options);
    EXPECT_NO_THROW(check_replicas(rank.model(), grid));
    ParameterStore& store = rank.model().parameters();
    const auto id = static_cast<int>(store.count() - 1);
    std::vector<float> values = store.host_values(id);
    values[0] += world.rank() == 3 ? 1.0F : 0.0F;
    store.set_values(id, values);
    try {
      check_replicas(rank.model(), grid);
      FAIL() << "nothing was found";
    } catch (const dist::AgreedError& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kSelfCheck);
      EXPECT_THAT(error.what(), ::testing::HasSubstr("all ranks of stage 1: rank 3 holds others than the rest"));
    }
  });
}

TEST(StagesStep, AStageOfTheWrongPlaceIsRefused) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(2, [&](dist::Communicator& world) {
    const dist::GridGroups groups = dist::make_groups(dist::ProcessGrid::make(2, world.rank(), 1, 2), world);
    TinyModel spec;
    spec.build();
    const Sampler sampler(tokens, 12, 5);
    EXPECT_THROW(StepRunner(*spec.model, sampler, dist::Grid(world, groups), test::tiny_options()), Error);
    StepRunnerOptions threads = test::tiny_options();
    threads.threads = 2;
    EXPECT_THROW(TinyRank(spec, tokens, dist::Grid(world, groups), threads), Error);
  });
}

}  // namespace
}  // namespace qat

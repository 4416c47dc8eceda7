// A stage for whose pass memory does not suffice: the others get through the pass, and all do it again in smaller ones.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <mutex>
#include <new>

#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

struct GridCase {
  int data, pipeline, chunks;
};

dist::StepPlan two_passes(std::uint64_t step) {
  return {.step = step,
          .maps = {{.weight_bits = 8, .activation_bits = 8, .gradient_bits = 8},
                   {.weight_bits = 3, .activation_bits = 3, .gradient_bits = 8}},
          .updates = {{.passes = {{.map = 0}, {.map = 1}}, .learning_rate = 1e-2F}}};
}

// By name, after one step of two passes that has had passes of one sequence in the end. broken: the rank that lacks
// memory for the pass of that number over its second micro-batch, as long as passes are of two; -1: none, and passes
// are of one from the beginning.
std::map<std::string, std::vector<float>> train(const GridCase& on, int broken, std::int64_t pass) {
  const TokenSource tokens = test::tiny_tokens();
  std::map<std::string, std::vector<float>> parameters;
  std::mutex adding;
  dist::run_local_ranks(on.data * on.pipeline, [&](dist::Communicator& world) {
    const dist::GridGroups groups =
        dist::make_groups(dist::ProcessGrid::make(world.size(), world.rank(), on.data, on.pipeline), world);
    const dist::Grid grid(world, groups);
    TinyModel spec;
    spec.config.n_layer = 4;
    spec.config.norm_slots = Slots::kPerWidth;
    StepRunnerOptions options = test::tiny_options();
    options.train.on_out_of_memory = OnOutOfMemory::kSmallerMicroBatch;
    if (on.chunks > 1) options.schedule = dist::PipelineSchedule::kInterleaved;
    TinyRank rank(spec, tokens, grid, options, /*mode=*/{}, on.chunks);
    StepRunner& runner = rank.runner();
    const std::int64_t second = grid.data_rank() * (8 / on.data) + 1;
    std::map<int, std::int64_t> times;  // by parameter: gradients of that micro-batch
    if (world.rank() == broken)
      runner.set_gradient_hook([&](std::int64_t, std::int64_t micro_batch, int id, const at::Tensor&) {
        if (runner.micro_batch_size() == 2 && micro_batch == second && times[id]++ == pass) throw std::bad_alloc();
      });
    if (broken < 0) runner.set_micro_batch_size(1);
    const StepOutcome first = rank.run(two_passes(0));
    if (broken >= 0) {
      EXPECT_TRUE(first.abandoned);
      EXPECT_THAT(first.out_of_memory, ::testing::ElementsAre(broken));
      EXPECT_TRUE(first.updates.empty());
      runner.set_micro_batch_size(1);
      const StepOutcome again = rank.run(two_passes(0));
      EXPECT_TRUE(again.out_of_memory.empty());
      EXPECT_FALSE(again.abandoned);
    }
    rank.hold_everything();
    const std::lock_guard lock(adding);
    const ParameterStore& store = rank.model().parameters();
    for (int id = 0; id < store.count(); ++id) {
      const auto [at, first_one] = parameters.emplace(store.info(id).name, store.host_values(id));
      EXPECT_EQ(at->second, store.host_values(id)) << "replicas, and copies of the table: " << at->first;
    }
  });
  return parameters;
}

TEST(StagesMemory, AStepWithoutMemoryOnOneStageIsDoneAgainByAll) {
  for (const GridCase& on : {GridCase{1, 4, 1}, {2, 2, 1}, {1, 2, 2}}) {
    const auto small = train(on, /*broken=*/-1, 0);
    for (int broken = 0; broken < on.data * on.pipeline; ++broken)
      for (const std::int64_t pass : {0, 1}) {
        SCOPED_TRACE(std::to_string(on.data) + " x " + std::to_string(on.pipeline) + " x " + std::to_string(on.chunks) +
                     ", rank " + std::to_string(broken) + ", pass " + std::to_string(pass));
        EXPECT_TRUE(train(on, broken, pass) == small);
      }
  }
}

}  // namespace
}  // namespace qat

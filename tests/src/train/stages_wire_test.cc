// Gradients that travel as codes between the replicas of each stage: what they do not carry is kept by stage, and none
// of it is lost when a checkpoint goes on on another grid.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <mutex>

#include "src/train/feedback_state.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;
using test::TinyRank;

using ByName = std::map<std::string, std::vector<float>>;

struct GridCase {
  int data = 1, pipeline = 1, chunks = 1;
};

class StagesWire : public test::TrainerTest {
 protected:
  struct Kept {
    std::map<std::string, ByName> by_rank;  // "0": of that replica, by parameter
    ByName sum;                             // over the replicas
  };
  // Ranks that take up `from` (empty: after two steps), and save `step`.
  Kept save(const GridCase& on, const fs::path& from, std::int64_t step) {
    Kept kept;
    std::mutex adding;
    const TokenSource tokens = test::tiny_tokens();
    dist::run_local_ranks(on.data * on.pipeline, [&](dist::Communicator& world) {
      const dist::GridGroups groups =
          dist::make_groups(dist::ProcessGrid::make(world.size(), world.rank(), on.data, on.pipeline), world);
      const dist::Grid grid = on.pipeline == 1 ? dist::Grid(world) : dist::Grid(world, groups);
      TinyModel spec;
      spec.config.n_layer = 4;
      StepRunnerOptions options = test::tiny_options();
      options.comm = {.wire = WireFormatName::kInt4, .block = 64};
      if (on.chunks > 1) options.schedule = dist::PipelineSchedule::kInterleaved;
      TinyRank rank(spec, tokens, grid, options, /*mode=*/{}, on.chunks);
      if (from.empty()) {
        for (std::uint64_t i = 0; i < 2; ++i) rank.step(i, 8, 8);
      } else {
        std::optional<CheckpointReader> reader;
        if (world.rank() == 0) reader.emplace(CheckpointReader::open(from));
        EXPECT_TRUE(load_feedback(reader ? &*reader : nullptr, rank.model(), rank.runner().gradients(), grid));
      }
      {
        const std::lock_guard lock(adding);
        for (const TensorPiece& piece :
             feedback_to_save(rank.model().parameters(), rank.runner().gradients(), grid.data_rank())) {
          const std::string rest = piece.name.substr(std::string("/sync/feedback/").size());
          const std::string replica = rest.substr(0, rest.find('/')), name = rest.substr(rest.find('/') + 1);
          const auto* const values = static_cast<const float*>(piece.values.data);
          EXPECT_TRUE(kept.by_rank[replica].emplace(name, std::vector(values, values + piece.values.elems)).second)
              << piece.name << " on two stages";
        }
      }
      save_run(root_, {.step = step, .config_json = "{}"}, rank.model(), rank.runner().optimizer(), grid, {},
               &rank.runner().gradients());
    });
    for (const auto& [replica, all] : kept.by_rank)
      for (const auto& [name, values] : all) {
        std::vector<float>& sum = kept.sum[name];
        sum.resize(values.size());
        for (std::size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
      }
    return kept;
  }
  fs::path folder(std::int64_t step) const { return root_ / step_folder_name(step); }

  // Relative.
  static double distance(const ByName& a, const ByName& b) {
    double squares = 0.0, differences = 0.0;
    EXPECT_EQ(a.size(), b.size());
    for (const auto& [name, values] : a)
      for (std::size_t i = 0; i < values.size(); ++i) {
        squares += std::pow(values[i], 2);
        differences += std::pow(values[i] - b.at(name).at(i), 2);
      }
    EXPECT_GT(squares, 0.0);
    return std::sqrt(differences / squares);
  }
};

TEST_F(StagesWire, WhatIsKeptStaysWithItsReplicaAndItsSumOnAnyGrid) {
  const Kept staged = save({.data = 4, .pipeline = 2}, {}, 1);
  EXPECT_EQ(staged.by_rank.size(), 4U);
  // As many replicas: bit for bit, whatever the stages.
  EXPECT_TRUE(save({.data = 4, .pipeline = 1}, folder(1), 2).by_rank == staged.by_rank);
  EXPECT_TRUE(save({.data = 4, .pipeline = 2, .chunks = 2}, folder(2), 3).by_rank == staged.by_rank);
  const Kept two = save({.data = 2, .pipeline = 4}, folder(3), 4);
  EXPECT_EQ(two.by_rank.size(), 2U);
  EXPECT_LT(distance(two.sum, staged.sum), 1e-6);
  EXPECT_LT(distance(save({.data = 4, .pipeline = 1}, folder(4), 5).sum, staged.sum), 1e-6);
}

// Ends of runs on codes of 4 bits are nearer to fp32's with what they have kept, on stages as without.
TEST_F(StagesWire, ErrorFeedbackHelpsOnStages) {
  stages_ = 2;
  config_.n_layer = 4;
  const auto end = [&](const std::string& dir, WireFormatName wire, bool feedback) {
    TrainerOptions o = options(dir, 12);
    o.comm = {.wire = wire, .block = 64, .error_feedback = feedback};
    o.comm.self_check = 0.0;
    return train(o, 4).parameters;
  };
  const std::vector<float> exact = end("exact", WireFormatName::kFp32, true);
  const auto apart = [&](const std::vector<float>& other) {
    double squares = 0.0;
    for (std::size_t i = 0; i < exact.size(); ++i) squares += std::pow(other[i] - exact[i], 2);
    return squares;
  };
  const double with = apart(end("with", WireFormatName::kInt4, true));
  const double without = apart(end("without", WireFormatName::kInt4, false));
  EXPECT_GT(with, 0.0);
  EXPECT_LT(with, without);
}

TEST_F(StagesWire, ARunThatGoesOnIsTheUninterruptedOne) {
  stages_ = 2;
  config_.n_layer = 4;
  const auto options_of = [&](const std::string& dir) {
    TrainerOptions o = options(dir, 6);
    o.comm = {.wire = WireFormatName::kInt4, .block = 64, .stochastic_rounding = true};
    o.checkpoint.every = 3, o.checkpoint.keep = 0;
    return o;
  };
  const End whole = train(options_of("whole"), 4);
  train(options_of("rest"), 4);
  fs::remove_all(root_ / "rest/checkpoints/step_00000006");
  EXPECT_TRUE(train(options_of("rest"), 4).parameters == whole.parameters);
  EXPECT_EQ(curve("rest"), curve("whole"));
}

}  // namespace
}  // namespace qat

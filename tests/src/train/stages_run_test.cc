// Whole runs on grids of replicas and stages: the losses, evaluations and checkpoints of one rank, whatever the grid.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

using test::TrainerTest;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class StagesRun : public TrainerTest {
 protected:
  // configs/cpt.json, shrunk: a cycle of widths, gradients on codes, clipping, dropout.
  TrainerOptions cpt(const std::string& dir, std::int64_t steps = 8) const {
    TrainerOptions o = options(dir, steps);
    o.precision = {.cycles = 2, .min_bits = 3, .max_bits = 8, .grad_min_bits = 8};
    o.optim.clip_norm = 1.0;
    o.eval.every = 4, o.eval.bits = {32, 8, 3};
    o.checkpoint.every = 4, o.checkpoint.keep = 0;
    return o;
  }
  // The same on `data` replicas of `stages` stages of `chunks` chunks.
  End train_in_chunks(TrainerOptions o, int data, int stages, int chunks,
                      const QuantizerConfig& activation = kDynamic) {
    chunks_ = chunks;
    o.schedule = dist::PipelineSchedule::kInterleaved;
    End end = train_on_grid(o, data, stages, activation);
    chunks_ = 1;
    return end;
  }
  // On `data` replicas of `stages` stages.
  End train_on_grid(const TrainerOptions& o, int data, int stages, const QuantizerConfig& activation = kDynamic,
                    const Prepare& prepare = {}, const std::atomic<int>* signal = nullptr) {
    stages_ = stages;
    const TokenSource tokens = test::tiny_tokens(train_tokens_), held_out = test::tiny_tokens(held_out_tokens_);
    const Sampler samples(tokens, o.data.sequence_length, o.run.seed);
    Gpt2Config config = test::TinyModel().config;
    config.n_layer = 4;
    config.attn_dropout = config.resid_dropout = config.embd_dropout = dropout_;
    return train_on(samples, HeldOutText(held_out), config, o, data * stages, activation, prepare, signal);
  }
  void copy_checkpoint(const std::string& from, const std::string& to, std::int64_t step) const {
    const std::string name = fmt_step(step);
    fs::create_directories(root_ / to / "checkpoints");
    fs::copy(root_ / from / "checkpoints" / name, root_ / to / "checkpoints" / name, fs::copy_options::recursive);
  }
  static std::string fmt_step(std::int64_t step) {
    std::string digits = std::to_string(step);
    return "step_" + std::string(8 - digits.size(), '0') + digits;
  }

  // The passes' losses of every step in metrics.jsonl.
  std::vector<std::string> passes(const std::string& dir) const {
    std::ifstream in(root_ / dir / "metrics.jsonl");
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      const Value step = parse_json(line, "metrics");
      const Value* const found = step.find("passes");
      lines.push_back(found == nullptr ? "" : to_json(*found));
    }
    return lines;
  }

  double dropout_ = 0.1;
  static constexpr QuantizerConfig kDynamic{.granularity = Granularity::kToken};
};

TEST_F(StagesRun, EightRanksInAnyGridHaveTheCurveOfOne) {
  const End one = train_on_grid(cpt("1"), 1, 1);
  ASSERT_TRUE(one.result.finished);
  ASSERT_EQ(curve("1").size(), 8U);
  for (const auto& [data, stages] : {std::pair{8, 1}, {4, 2}, {2, 4}}) {
    const std::string dir = std::to_string(data) + "x" + std::to_string(stages);
    const End many = train_on_grid(cpt(dir), data, stages);
    EXPECT_TRUE(many.result.finished) << dir;
    EXPECT_EQ(curve(dir), curve("1"));
    EXPECT_EQ(read(dir, "eval.jsonl"), read("1", "eval.jsonl")) << dir;
    EXPECT_TRUE(many.parameters == one.parameters) << dir;
  }
}

// 2 x 4 goes on as 4 x 1, that as 1 x 2, and so on, to the end of the run that one rank makes in one go.
TEST_F(StagesRun, ACheckpointOfAnyGridGoesOnOnAnyOther) {
  const End whole = train_on_grid(cpt("whole", 8), 1, 1);
  for (const auto& [from, to] : {std::pair{std::pair{2, 4}, std::pair{4, 1}}, {{4, 1}, {2, 4}}, {{1, 2}, {2, 2}}}) {
    const std::string dir = std::to_string(from.first) + "x" + std::to_string(from.second);
    const std::string rest = dir + " goes on";
    train_on_grid(cpt(dir, 8), from.first, from.second);
    copy_checkpoint(dir, rest, 4);
    const End end = train_on_grid(cpt(rest, 8), to.first, to.second);
    EXPECT_EQ(curve(rest).size(), 4U) << rest;
    EXPECT_TRUE(end.parameters == whole.parameters) << rest;
    EXPECT_EQ(end.state.step, 8) << rest;
  }
}

// Evaluations, calibrated ranges and the layers' figures too; a checkpoint goes on in one chunk a stage, and back.
TEST_F(StagesRun, ARunInSeveralChunksAStageIsThatOfOneRank) {
  const QuantizerConfig activation{.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  TrainerOptions o = cpt("1");
  o.quant.calibration_batches = 3, o.quant.recalibrate_every = 3;
  o.report.layers_every = 4;
  const auto as = [&](const std::string& dir) {
    o.run.dir = (root_ / dir).string();
    return o;
  };
  const End one = train_on_grid(o, 1, 1, activation);
  const End four = train_in_chunks(as("2x2"), 2, 2, 2, activation);
  EXPECT_TRUE(four.result.finished);
  EXPECT_EQ(curve("2x2"), curve("1"));
  for (const char* file : {"eval.jsonl", "layers.jsonl"}) EXPECT_EQ(read("2x2", file), read("1", file)) << file;
  EXPECT_TRUE(four.parameters == one.parameters);
  copy_checkpoint("2x2", "to stages", 4);
  EXPECT_TRUE(train_on_grid(as("to stages"), 1, 4, activation).parameters == one.parameters);
  copy_checkpoint("to stages", "back", 4);
  copy_checkpoint("2x2", "to one", 4);
  EXPECT_TRUE(train_in_chunks(as("back"), 1, 2, 2, activation).parameters == one.parameters);
  EXPECT_TRUE(train_on_grid(as("to one"), 1, 1, activation).parameters == one.parameters);
}

// Ranges that belong to layers: found, kept, written and taken up by the stage that has the layer.
TEST_F(StagesRun, CalibratedAndRunningRangesBelongToTheirStage) {
  for (const RangeSource range : {RangeSource::kCalibrated, RangeSource::kRunning}) {
    const std::string name(enum_name(range));
    const QuantizerConfig activation{.granularity = Granularity::kTensor, .range = range};
    TrainerOptions o = cpt(name + " 1");
    o.quant.calibration_batches = 3, o.quant.recalibrate_every = 3;
    const End one = train_on_grid(o, 1, 1, activation);
    const std::string dir = name + " 2x2", rest = dir + " goes on";
    o.run.dir = (root_ / dir).string();
    const End four = train_on_grid(o, 2, 2, activation);
    EXPECT_EQ(curve(dir), curve(name + " 1"));
    EXPECT_EQ(read(dir, "eval.jsonl"), read(name + " 1", "eval.jsonl"));
    EXPECT_TRUE(four.parameters == one.parameters) << name;
    copy_checkpoint(dir, rest, 4);
    o.run.dir = (root_ / rest).string();
    EXPECT_TRUE(train_on_grid(o, 1, 4, activation).parameters == one.parameters) << rest;
    EXPECT_THAT(read(dir, "calibration.jsonl"), HasSubstr("\"stage\""));
  }
}

// Ranges that quantizers of weights and inputs train, or keep as running means.
TEST_F(StagesRun, LearnedRangesAndThoseOfWeightsBelongToTheirStage) {
  for (const QuantizerKind method : {QuantizerKind::kLsq, QuantizerKind::kEma}) {
    const std::string name(enum_name(method));
    const bool learned = method == QuantizerKind::kLsq;
    const QuantizerConfig activation{.method = method,
                                     .granularity = Granularity::kTensor,
                                     .range = learned ? RangeSource::kLearned : RangeSource::kRunning};
    TrainerOptions o = cpt(name + " 1");
    o.quant.weight = {.method = method, .granularity = Granularity::kTensor};
    o.quant.calibration_batches = 3;
    const End one = train_on_grid(o, 1, 1, activation);
    const std::string dir = name + " 2x2", rest = dir + " goes on";
    o.run.dir = (root_ / dir).string();
    EXPECT_TRUE(train_on_grid(o, 2, 2, activation).parameters == one.parameters) << name;
    EXPECT_EQ(curve(dir), curve(name + " 1"));
    copy_checkpoint(dir, rest, 4);
    o.run.dir = (root_ / rest).string();
    EXPECT_TRUE(train_on_grid(o, 1, 4, activation).parameters == one.parameters) << rest;
  }
}

TEST_F(StagesRun, RecipesOfSeveralPassesHaveTheBitsOfOneRank) {
  for (const Recipe recipe : {Recipe::kPerMap, Recipe::kSpnet, Recipe::kSp, Recipe::kInstantnet}) {
    const std::string name(enum_name(recipe));
    TrainerOptions o = cpt(name + " 1", 3);
    o.train.recipe = recipe, o.train.students = 2;
    o.quant.widths = {8, 3, 32};
    const End one = train_on_grid(o, 1, 1);
    o.run.dir = (root_ / (name + " 1x4")).string();
    const End four = train_on_grid(o, 1, 4);
    EXPECT_EQ(curve(name + " 1x4"), curve(name + " 1"));
    EXPECT_EQ(passes(name + " 1x4"), passes(name + " 1"));
    EXPECT_TRUE(four.parameters == one.parameters) << name;
  }
}

// Teachers' states of all layers, some and one, in stages that have all, some and none of them; also where dropout
// lets no pass that trains teach, and where a pass does both.
TEST_F(StagesRun, HiddenStatesTeachWithTheBitsOfOneRank) {
  struct Case {
    std::string name;
    Recipe recipe = Recipe::kSp;
    DistillConfig distill{};
    bool dropout = true;
  };
  for (const Case& one_case :
       {Case{.name = "all", .distill = {.weight = 0.5, .features = 0.1, .feature_pick = FeaturePick::kAll}},
        Case{.name = "some",
        .recipe = Recipe::kInstantnet,
        .distill = {.weight = 0.0, .features = 0.2, .feature_layers = {4, 0, 2}, .feature_pick = FeaturePick::kAll},
        .dropout = false},
        Case{.name = "first",
        .recipe = Recipe::kInstantnet,
        .distill = {.weight = 0.5, .features = 0.1, .feature_layers = {1}}},
        Case{.name = "drawn", .distill = {.weight = 0.5, .features = 0.1}}}) {
    TrainerOptions o = cpt(one_case.name + " 1", 3);
    o.train.recipe = one_case.recipe, o.train.students = 1;
    o.quant.widths = {8, 3, 32};
    o.distill = one_case.distill;
    dropout_ = one_case.dropout ? 0.1 : 0.0;
    const auto as = [&](const std::string& dir) {
      o.run.dir = (root_ / (one_case.name + " " + dir)).string();
      return o;
    };
    const End one = train_on_grid(as("1"), 1, 1);
    const auto expect_same = [&](const End& end, const std::string& dir) {
      const std::string name = one_case.name + " " + dir;
      EXPECT_EQ(curve(name), curve(one_case.name + " 1")) << name;
      EXPECT_EQ(passes(name), passes(one_case.name + " 1")) << name;
      EXPECT_TRUE(end.parameters == one.parameters) << name;
    };
    EXPECT_THAT(passes(one_case.name + " 1").front(), HasSubstr("\"features\""));
    expect_same(train_on_grid(as("1x2"), 1, 2), "1x2");
    expect_same(train_on_grid(as("1x4"), 1, 4), "1x4");
    expect_same(train_in_chunks(as("1x2 in chunks"), 1, 2, 2), "1x2 in chunks");
    if (one_case.recipe == Recipe::kSp) expect_same(train_on_grid(as("2x2"), 2, 2), "2x2");
  }
}

TEST_F(StagesRun, ATimelineHasEveryActionOfItsStep) {
  TrainerOptions o = cpt("run", 4);
  o.timeline_step = 2;
  train_on_grid(o, 2, 2);
  const Value trace = parse_json(read("run", "timeline.json"), "timeline");
  EXPECT_FALSE(trace.at("traceEvents").as_array().empty());
  const std::string spans = read("run", "timeline.csv");
  const auto count = [&](const std::string& part) {
    int n = 0;
    for (std::size_t at = spans.find(part); at != std::string::npos; at = spans.find(part, at + 1)) ++n;
    return n;
  };
  // 8 micro-batches, 4 a replica: forward and backward on each of its two stages, and a transfer at both ends.
  for (const char* action : {",forward,", ",backward,"}) EXPECT_EQ(count(action), 16) << action;
  for (const char* action : {",send forward,", ",receive forward,", ",send backward,", ",receive backward,"})
    EXPECT_EQ(count(action), 8) << action;
  for (const char* rank : {"\n0,", "\n1,", "\n2,", "\n3,"}) EXPECT_EQ(count(rank), 16) << rank;
}

TEST_F(StagesRun, ASignalStopsAllStagesWithACheckpoint) {
  std::atomic<int> signal{0};
  TrainerOptions o = cpt("run", 40);
  o.eval.every = 0, o.checkpoint.every = 0;
  on_progress_ = [&](std::int64_t steps, const std::string&) {
    if (steps == 3) signal = 15;
  };
  const End end = train_on_grid(o, 2, 2, kDynamic, {}, &signal);
  EXPECT_FALSE(end.result.finished);
  EXPECT_EQ(end.result.signal, 15);
  EXPECT_TRUE(fs::exists(root_ / "run/checkpoints" / fmt_step(end.state.step)));
}

}  // namespace
}  // namespace qat

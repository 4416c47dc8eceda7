// Whole runs on maps of layers' widths.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "src/train/range_state.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

using test::TrainerTest;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class MapsRun : public TrainerTest {
 protected:
  TrainerOptions with(Recipe recipe, const std::string& dir, std::int64_t steps = 6) const {
    TrainerOptions o = options(dir, steps);
    o.train.recipe = recipe;
    o.quant.widths = {8, 4, 32};
    o.quant.maps = {"8", "stripe8&4", "mixed: attn=4,mlp=3,act=8,kv=4;attn=8,mlp=32"};
    o.precision.grad_min_bits = 8;
    o.eval.bits.clear();
    return o;
  }
  std::vector<Value> metrics(const std::string& dir) const {
    std::ifstream in(root_ / dir / "metrics.jsonl");
    std::vector<Value> lines;
    for (std::string line; std::getline(in, line);) lines.push_back(parse_json(line, "metrics"));
    return lines;
  }
  // The losses of a run's passes, step by step.
  std::vector<std::vector<double>> losses(const std::string& dir) const {
    std::vector<std::vector<double>> all;
    for (const Value& line : metrics(dir)) {
      all.emplace_back();
      std::vector<std::string> names;
      for (const Value& pass : line.at("passes").as_array()) {
        names.push_back(pass.at("map").as_string());
        all.back().push_back(pass.at("loss").as_double());
      }
      EXPECT_THAT(names, ElementsAre("8", "stripe8&4", "mixed"));
    }
    return all;
  }
  // Maps of a run's steps, in order.
  std::vector<std::string> maps(const std::string& dir) const {
    std::vector<std::string> names;
    for (const Value& line : metrics(dir)) names.push_back(line.at("map").as_string());
    return names;
  }
  Value report(const std::string& dir) const { return parse_json(read(dir, "report.json"), "report.json"); }
  // A copy of `whole` as it was after `step` steps, to be gone on from.
  void copy_checkpoint(const TrainerOptions& whole, const TrainerOptions& rest, const std::string& step) const {
    fs::create_directories(fs::path(rest.run.dir) / "checkpoints");
    fs::copy(fs::path(whole.run.dir) / "checkpoints" / step, fs::path(rest.run.dir) / "checkpoints" / step,
             fs::copy_options::recursive);
  }
};

TEST_F(MapsRun, PerMapHasTheSameBitsOnOneAndTwoRanks) {
  const End one = train(with(Recipe::kPerMap, "1"), 1), two = train(with(Recipe::kPerMap, "2"), 2);
  EXPECT_TRUE(one.result.finished);
  EXPECT_EQ(two.parameters, one.parameters);
  const auto want = losses("1");
  ASSERT_EQ(want.size(), 6U);
  EXPECT_EQ(losses("2"), want);
  EXPECT_LT(want[5][2], want[0][2]);
}

TEST_F(MapsRun, SpnetAgreesOnOneAndTwoRanksAndNamesItsMapsInTheTable) {
  const End one = train(with(Recipe::kSpnet, "1"), 1);
  train(with(Recipe::kSpnet, "2"), 2);
  const auto want = losses("1"), got = losses("2");
  ASSERT_EQ(want.size(), 6U);
  EXPECT_EQ(got[0], want[0]);
  for (std::size_t step = 1; step < 6; ++step)
    for (std::size_t pass = 0; pass < 3; ++pass) EXPECT_NEAR(got[step][pass], want[step][pass], 0.02);
  EXPECT_THAT(one.result.table, HasSubstr("stripe8&4"));
  const auto rows = report("1").at("widths").as_array();
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[2].at("map").as_string(), "mixed");
  EXPECT_EQ(to_json(rows[2].at("weight_bits_range")), "[3,32]");
  EXPECT_EQ(to_json(rows[2].at("kv_bits_range")), "[4,32]");
  EXPECT_EQ(rows[1].at("bit_width").as_int(), 4);
}

TEST_F(MapsRun, UniformMapsTrainAndScoreAsTheWidthsThatTheyAre) {
  TrainerOptions widths = with(Recipe::kPerMap, "widths"), maps = with(Recipe::kPerMap, "maps");
  widths.quant.widths = {8, 3}, widths.quant.maps.clear();
  maps.quant.widths = {8, 3}, maps.quant.maps = {"8", "three: 3"};
  EXPECT_EQ(train(maps, 2).parameters, train(widths, 2).parameters);
  const auto of_maps = report("maps").at("widths").as_array(), of_widths = report("widths").at("widths").as_array();
  for (std::size_t i = 0; i < 2; ++i)
    for (const char* key : {"nll", "model_size_bytes", "forward_bitops_ratio", "effective_bits"})
      EXPECT_EQ(of_maps[i].at(key), of_widths[i].at(key)) << key;
}

TEST_F(MapsRun, AResumedRunSwitchesAndCountsAsTheUninterruptedOne) {
  for (const ScheduleKind kind : {ScheduleKind::kCyclic, ScheduleKind::kRandom}) {
    const std::string name = enum_name(kind);
    TrainerOptions whole = with(Recipe::kCpt, name + " whole", 12), rest = with(Recipe::kCpt, name + " rest", 12);
    for (TrainerOptions* o : {&whole, &rest}) {
      o->precision.kind = kind;
      o->precision.switch_interval = 2, o->precision.switch_probability = 0.7;
      o->precision.static_after = 10, o->precision.static_at = "mixed";
    }
    whole.checkpoint.every = 5, whole.checkpoint.keep = 0;
    const End end = train(whole, 1);
    copy_checkpoint(whole, rest, "step_00000005");
    EXPECT_EQ(train(rest, 2).parameters, end.parameters) << name;
    EXPECT_EQ(report(name + " rest").at("precisions"), report(name + " whole").at("precisions"));
    const auto names = maps(name + " whole"), later = maps(name + " rest");
    if (kind == ScheduleKind::kCyclic) {
      EXPECT_THAT(names, ElementsAre("8", "8", "stripe8&4", "stripe8&4", "mixed", "mixed", "8", "8", "stripe8&4",
                                     "stripe8&4", "mixed", "mixed"));
    }
    EXPECT_EQ(names[11], "mixed");
    EXPECT_EQ(std::vector<std::string>(names.begin() + 5, names.end()), later) << name;
  }
}

TEST_F(MapsRun, SaysWhatSwitchingDoesToTheLossAndWhatEachPrecisionHad) {
  TrainerOptions o = with(Recipe::kCpt, "run", 8);
  o.precision.kind = ScheduleKind::kCyclic, o.precision.switch_interval = 4;
  o.quant.maps = {"8", "stripe8&4"};
  train(o, 1);
  const std::vector<Value> lines = metrics("run");
  double change = 0.0;
  EXPECT_EQ(lines[0].find("loss_change"), nullptr);
  for (std::size_t i = 1; i < 8; ++i) {
    EXPECT_EQ(lines[i].at("switched").as_bool(), i == 4);
    EXPECT_EQ(lines[i].at("loss_change").as_double(),
              lines[i].at("loss").as_double() - lines[i - 1].at("loss").as_double());
    if (i == 4) change = lines[i].at("loss_change").as_double();
  }
  const Value precisions = report("run").at("precisions");
  EXPECT_EQ(precisions.at("switches").at("count").as_int(), 1);
  EXPECT_EQ(precisions.at("switches").at("mean_loss_change").as_double(), change);
  EXPECT_EQ(precisions.at("steady").at("count").as_int(), 6);
  EXPECT_EQ(precisions.at("passes").as_array()[0].at("share").as_double(), 0.5);
  // Half of the steps have all products at 8, the others 5 of 12.
  EXPECT_NEAR(precisions.at("macs").as_array()[1].at("share").as_double(), 17.0 / 24.0, 1e-12);
  EXPECT_THAT(read("run", "report.md"), HasSubstr("loss change at a switch of precision"));
}

// Activation ranges of maps: training's, and those that evaluation has of its own.
TEST_F(MapsRun, CalibratedMapsScoreFromTheCheckpointAsInTheFinalTable) {
  TrainerOptions o = with(Recipe::kSpnet, "run", 3);
  o.quant.calibration_batches = 2;
  o.quant.activation = {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  o.quant.maps = {"8", "stripe8&4"};
  o.eval.maps = {"stripe8&4", "alternating_4_3"};
  train(o, 2, o.quant.activation);
  const CheckpointReader reader =
      CheckpointReader::open(list_checkpoints(fs::path(o.run.dir) / "checkpoints").back().folder);
  test::TinyModel mine;
  mine.quant = o.quant;
  mine.build(/*seed=*/99);
  const auto comm = dist::make_single_comm();
  load_model(&reader, *mine.model, *comm, LoadFor::kEvaluation, o.config_json);
  const std::vector<EvaluatedAt> at = evaluation_widths(o.eval, o.quant);
  const EvaluationRanges own = load_evaluation_ranges(&reader, *mine.model, *comm, at);
  EXPECT_FALSE(own.contains(at[0]));  // training's are in force
  EXPECT_TRUE(own.contains(at[1]));
  const TokenSource held_out = test::tiny_tokens(300);
  dist::StopPoll never(*comm);
  const auto scores =
      *score_widths(*mine.model, HeldOutText(held_out), at, mine.quant, o.eval, 12, 1, *comm, never, own);
  for (std::size_t i = 0; i < scores.size(); ++i)
    EXPECT_EQ(report("run").at("widths").as_array()[i].at("nll").as_double(), scores[i].score.nll_sum) << i;
}

// Blocks at different places of the schedule, with parameters that each width has for itself or that all share.
TEST_F(MapsRun, BlocksThatAreAheadTrainToTheSameBitsOnTwoRanksAndAfterAResume) {
  for (const Slots slots : {Slots::kShared, Slots::kPerWidth}) {
    lora_.slots = config_.norm_slots = slots;
    const std::string name = enum_name(slots);
    const auto run = [&](const std::string& dir) {
      TrainerOptions o = with(Recipe::kCpt, name + dir, 9);
      o.quant.widths = {2, 4, 8, 32}, o.quant.maps.clear();
      o.precision.kind = ScheduleKind::kCyclic, o.precision.switch_interval = 2, o.precision.layer_offset = 1;
      o.precision.static_after = 7, o.precision.static_at = "8";
      o.checkpoint.every = 3, o.checkpoint.keep = 0;
      return o;
    };
    const TrainerOptions whole = run(" one"), rest = run(" rest");
    const End one = train(whole, 1);
    EXPECT_EQ(train(run(" two"), 2).parameters, one.parameters) << name;
    EXPECT_EQ(curve(name + " two"), curve(name + " one"));
    copy_checkpoint(whole, rest, "step_00000003");
    EXPECT_EQ(train(rest, 2).parameters, one.parameters) << name;
    std::vector<std::int64_t> widths;
    for (const Value& line : metrics(name + " one")) widths.push_back(line.at("weight_bits").as_int());
    EXPECT_THAT(widths, ElementsAre(2, 2, 4, 4, 8, 8, 32, 8, 8));
    // Of the steps with one width for the first block and the next for the second, half of the products each.
    std::map<std::int64_t, double> macs;
    const Value reported = report(name + " one");
    for (const Value& share : reported.at("precisions").at("macs").as_array())
      macs[share.at("weight_bits").as_int()] = share.at("share").as_double();
    // Blocks' steps: 2 2 4 4 8 8 32 | 2 4 4 8 8 32 32, and two more at 8.
    EXPECT_NEAR(macs.at(2), 3.0 / 18.0, 1e-12);
    EXPECT_NEAR(macs.at(4), 4.0 / 18.0, 1e-12);
    EXPECT_NEAR(macs.at(8), 8.0 / 18.0, 1e-12);
    EXPECT_NEAR(macs.at(32), 3.0 / 18.0, 1e-12);
  }
}

// Of two updates a step, one is skipped once.
TEST_F(MapsRun, RunningRangesFollowTheUpdatesThatChangedTheParameters) {
  TrainerOptions o = with(Recipe::kPerMap, "run", 5);
  o.quant.maps = {"8", "4"};
  o.quant.weight.method = QuantizerKind::kEma;
  o.quant.activation = {.granularity = Granularity::kTensor, .range = RangeSource::kRunning};
  int updates = 0;
  const End end = train(o, 1, o.quant.activation, [&](Trainer& trainer) {
    trainer.runner().set_loss_hook([&](std::int64_t, double loss) { return ++updates == 6 ? NAN : loss; });
  });
  EXPECT_EQ(end.state.skips_total, 0);
  const CheckpointReader reader =
      CheckpointReader::open(list_checkpoints(fs::path(o.run.dir) / "checkpoints").back().folder);
  test::TinyModel mine;
  mine.quant = o.quant;
  mine.build(/*seed=*/99);
  const auto comm = dist::make_single_comm();
  load_model(&reader, *mine.model, *comm, LoadFor::kResume, o.config_json);
  const auto moves = [&](int bits) {
    const QuantLinear& layer = mine.model->linears()[0];
    return std::pair{layer.weight_quantizer().required({.weight = bits, .activation = 32}).batches,
                     layer.activation_quantizer().required({.weight = bits, .activation = bits}).batches};
  };
  EXPECT_EQ(moves(8).first, moves(4).first + 1);
  EXPECT_EQ(moves(8).second, moves(4).second + 1);
}

// Statistics of losses follow the maps, not their places in the list.
TEST_F(MapsRun, AResumedRunMayHaveItsMapsInAnotherOrderAndUnderOtherNames) {
  TrainerOptions o = with(Recipe::kCpt, "run", 4);
  o.precision.kind = ScheduleKind::kScheduled;
  o.quant.maps = {"8", "mine: stripe8&4"}, o.precision.pattern = {"8:3", "mine:1"};
  train(o, 1);
  o.train.steps = 8;
  o.quant.maps = {"stripe8&4", "eight: 8"}, o.precision.pattern = {"eight:3", "stripe8&4:1"};
  train(o, 1);
  const CheckpointReader reader =
      CheckpointReader::open(list_checkpoints(fs::path(o.run.dir) / "checkpoints").back().folder);
  std::map<std::string, std::int64_t> counts;
  const Value statistics = parse_json(load_train_state(reader).loss_statistics, "statistics");
  for (const Value& one : statistics.as_array()) counts[one.at("precision").as_string()] = one.at("count").as_int();
  EXPECT_EQ(counts, (std::map<std::string, std::int64_t>{{"map 8x8", 6}, {"map 1x4,1x8,1x4,1x8,1x4,1x8,1x4,1x8", 2}}));
}

TEST_F(MapsRun, ACheckpointsMapsHaveTheirKeysWhateverTheyWereCalled) {
  const Gpt2Config model = test::TinyModel().config;
  EXPECT_THAT(map_keys(model, R"({"quant": {"maps": ["eight: 8", "8,4", "attn=8,mlp=4"]}})"),
              ElementsAre("map 8x8", "", "map 2x8,2x4,2x8,2x4"));
  EXPECT_TRUE(map_keys(model, R"({"model": {}})").empty());
}

TEST_F(MapsRun, AMapThatDoesNotFitTheModelIsRefused) {
  TrainerOptions o = with(Recipe::kSpnet, "run", 2);
  o.quant.maps = {"8", "8,8,4"};
  EXPECT_THROW(train(o, 1), Error);
}

}  // namespace
}  // namespace qat

// Runs with each of the quantizers and sources of ranges: the same on any number of ranks, after a resume, and whatever
// is evaluated on the way.
#include <cmath>

#include "src/quant/histogram_range.h"
#include "src/train/running_ranges.h"
#include "tests/support/calibrated_range.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;
using test::TinyRank;
using test::TrainerTest;
using ::testing::HasSubstr;
using ::testing::SizeIs;

struct Kind {
  const char* name;
  std::function<void(QuantConfig&)> set;
};

const QuantizerConfig kCalibratedTensor{.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};

std::vector<Kind> kinds() {
  return {
      {"percentile",
       [](QuantConfig& q) {
         q.activation = kCalibratedTensor;
         q.calibration_method = CalibrationMethod::kPercentile, q.calibration_percentile = 98.0;
       }},
      {"entropy",
       [](QuantConfig& q) {
         q.activation = kCalibratedTensor;
         q.calibration_method = CalibrationMethod::kEntropy;
       }},
      {"llm_qat",
       [](QuantConfig& q) {
         q.weight.method = QuantizerKind::kLlmQat;
         q.activation = {.method = QuantizerKind::kLlmQat, .granularity = Granularity::kToken};
         q.kv_bits = 8;
       }},
      {"cpt",
       [](QuantConfig& q) {
         q.weight.method = QuantizerKind::kCpt;
         q.activation = {
             .method = QuantizerKind::kCpt, .granularity = Granularity::kTensor, .range = RangeSource::kRunning};
       }},
      {"ema",
       [](QuantConfig& q) {
         q.weight = {.method = QuantizerKind::kEma, .granularity = Granularity::kTensor};
         q.activation = {.method = QuantizerKind::kEma,
                         .symmetric = false,
                         .granularity = Granularity::kTensor,
                         .range = RangeSource::kRunning};
       }},
      {"lsq",
       [](QuantConfig& q) {
         q.weight = {.method = QuantizerKind::kLsq, .granularity = Granularity::kTensor};
         q.activation = {
             .method = QuantizerKind::kLsq, .granularity = Granularity::kTensor, .range = RangeSource::kLearned};
       }},
      {"groupwise",
       [](QuantConfig& q) {
         q.weight = {.method = QuantizerKind::kGroupwise, .granularity = Granularity::kChannel, .group_size = 8};
       }},
      {"by_width",
       [](QuantConfig& q) {
         q.weight = {.method = QuantizerKind::kLlmQat,
                     .granularity = Granularity::kTensor,
                     .by_width = {{3, QuantizerKind::kLsq}, {8, QuantizerKind::kEma}}};
         q.activation = {.granularity = Granularity::kTensor,
                         .range = RangeSource::kRunning,
                         .by_width = {{3, QuantizerKind::kCpt}, {8, QuantizerKind::kEma}}};
       }},
  };
}

class RangeSources : public TrainerTest, public ::testing::WithParamInterface<Kind> {
 protected:
  End run(const std::string& dir, int ranks, std::int64_t eval_every = 0, const Prepare& prepare = {},
          const std::atomic<int>* signal = nullptr) {
    TrainerOptions o = options(dir, 8);
    o.quant.widths = {3, 4, 8, 32};
    o.precision = {.kind = ScheduleKind::kList, .cycles = 4, .list = {3, 8}};
    o.eval.bits = {32, 8, 4};  // 4 is never trained
    o.eval.every = eval_every;
    GetParam().set(o.quant);
    return train(o, ranks, o.quant.activation, prepare, signal);
  }
};

TEST_P(RangeSources, AreTheSameRunOnAnyRanksAfterAResumeAndWithEvaluations) {
  const End one = run("one", 1);
  ASSERT_TRUE(one.result.finished);
  for (const int ranks : {2, 4}) {
    const End more = run("ranks " + std::to_string(ranks), ranks);
    EXPECT_EQ(more.parameters, one.parameters) << ranks;
    EXPECT_EQ(more.result.table, one.result.table) << ranks;
    EXPECT_EQ(curve("ranks " + std::to_string(ranks)), curve("one"));
  }
  EXPECT_EQ(run("evaluated", 2, /*eval_every=*/1).parameters, one.parameters);
  std::atomic<int> signal{0};
  const End part = run(
      "part", 2, 0,
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, int, const at::Tensor&) {
          if (step == 4) signal = 15;
        });
      },
      &signal);
  ASSERT_FALSE(part.result.finished);
  const End resumed = run("part", 4);
  EXPECT_EQ(resumed.parameters, one.parameters);
  EXPECT_EQ(resumed.result.table, one.result.table);
  EXPECT_EQ(curve("part"), curve("one"));
}

INSTANTIATE_TEST_SUITE_P(All, RangeSources, ::testing::ValuesIn(kinds()),
                         [](const auto& c) { return std::string(c.param.name); });

// Maps give layers other widths, and teachers look at samples without a trace.
TEST_F(TrainerTest, RangesOfMapsAndOfTaughtPassesAreTheSameRunOnAnyRanksAndAfterAResume) {
  for (const Kind& kind : kinds()) {
    if (kind.name != std::string("lsq") && kind.name != std::string("ema") && kind.name != std::string("by_width"))
      continue;
    const auto run = [&](const std::string& dir, int ranks, std::int64_t every = 0) {
      TrainerOptions o = options(std::string(kind.name) + " " + dir, 6);
      o.quant.widths = {8, 32};
      o.quant.maps = {"8", "stripe8&3", "attn=3,mlp=8,act=8"};
      o.train.recipe = Recipe::kPerMap;
      o.distill.teacher = TeacherChoice::kFull;
      o.eval.bits.clear();
      o.checkpoint.every = every, o.checkpoint.keep = 0;
      kind.set(o.quant);
      return train(o, ranks, o.quant.activation);
    };
    const End one = run("one", 1, 3), two = run("two", 2);
    ASSERT_TRUE(one.result.finished);
    EXPECT_EQ(two.parameters, one.parameters) << kind.name;
    EXPECT_EQ(two.result.table, one.result.table) << kind.name;
    const fs::path rest = root_ / (std::string(kind.name) + " rest") / "checkpoints";
    fs::create_directories(rest);
    fs::copy(root_ / (std::string(kind.name) + " one") / "checkpoints/step_00000003", rest / "step_00000003",
             fs::copy_options::recursive);
    const End resumed = run("rest", 2);
    EXPECT_EQ(resumed.parameters, one.parameters) << kind.name;
    EXPECT_EQ(resumed.result.table, one.result.table) << kind.name;
  }
}

// One rank of a run with a Calibrator and running ranges, without the Trainer.
class OneRank : public ::testing::Test {
 protected:
  void build(const QuantConfig& quant,
             CalibratorOptions options = {
                 .seed = 5, .batches = 3, .micro_batch_size = 2, .sequence_length = 12, .step_batches = 8}) {
    spec_.quant = quant;
    options.method = quant.calibration_method, options.percentile = quant.calibration_percentile;
    rank_.emplace(spec_, tokens_, *comm_, test::tiny_options());
    calibrator_.emplace(rank_->model(), spec_.quant, rank_->sampler(), *comm_, never_, log_, options);
    running_.emplace(rank_->model(), spec_.quant, *comm_, log_);
    if (running_->any()) rank_->runner().set_range_sink(&*running_);
  }
  PrecisionMap map(int bits) const { return PrecisionMap::uniform(spec_.config.linears(), bits, bits, 8); }
  void step(std::uint64_t index, int bits) {
    calibrator_->before_step(map(bits), static_cast<std::int64_t>(index), index * 16);
    running_->begin_step();
    (void)rank_->step(index, bits, 8, 0.0F);
    const PrecisionMap used = map(bits);
    running_->end_step({&used, 1});
  }
  const QuantLinear& layer(std::size_t index) { return rank_->model().linears()[index]; }
  const CalibratedRange& activation(std::size_t index, int bits) {
    return layer(index).activation_quantizer().required(test::both(bits));
  }

  TinyModel spec_;
  TokenSource tokens_ = test::tiny_tokens();
  std::unique_ptr<dist::Communicator> comm_ = dist::make_single_comm();
  dist::StopPoll never_{*comm_};
  std::vector<std::string> said_;
  Logger log_{{.dir = {}, .console_level = LogLevel::kDebug, .console = [this](std::string_view line) {
                 said_.emplace_back(line);
               }}};
  std::optional<TinyRank> rank_;
  std::optional<Calibrator> calibrator_;
  std::optional<RunningRanges> running_;
};

// The first layer sees the normalized embeddings, which a learning rate of 0 leaves as they are: the same in every
// pass.
at::Tensor first_inputs(TinyRank& rank, std::uint64_t first_sample, std::int64_t samples) {
  const Batch batch = sample_batch(rank.sampler(), first_sample, samples, 12, at::kCPU);
  const auto& store = rank.model().parameters();
  return at::layer_norm(at::embedding(store.tensor(0), batch.inputs) + store.tensor(1).narrow(0, 0, 12), {16});
}

TEST_F(OneRank, RunningRangesBeginWithTheFirstStepsSamplesAndMoveByWhatStepsSee) {
  for (const QuantizerKind method : {QuantizerKind::kMinMax, QuantizerKind::kCpt, QuantizerKind::kEma}) {
    QuantConfig quant;
    quant.activation = {.method = method, .granularity = Granularity::kTensor, .range = RangeSource::kRunning};
    quant.running_momentum = 0.75;
    build(quant);
    double lo = 0.0, hi = 0.0;
    for (std::uint64_t i = 0; i < 3; ++i) {
      step(i, 8);
      const at::Tensor x = first_inputs(*rank_, i * 16, 16);
      const double least = x.min().item<double>(), most = x.max().item<double>();
      lo = i == 0 ? least : 0.75 * lo + 0.25 * least, hi = i == 0 ? most : 0.75 * hi + 0.25 * most;
      EXPECT_NEAR(activation(0, 8).lo.item<double>(), lo, 1e-5) << i;
      EXPECT_NEAR(activation(0, 8).hi.item<double>(), hi, 1e-5) << i;
    }
    const CalibratedRange before = activation(3, 8);
    step(3, 4);  // another width's
    EXPECT_TRUE(at::equal(activation(3, 8).hi, before.hi));
    EXPECT_FALSE(at::equal(activation(3, 4).hi, before.hi));
    // A pass that does not train leaves them alone, and so does a step that was given up.
    const PrecisionMap eight = map(8);
    (void)rank_->model().token_nll(at::zeros({1, 12}, at::kLong), at::zeros({1, 12}, at::kLong), {.precision = &eight});
    (void)rank_->step(4, 8, 8, 0.0F);
    running_->begin_step();
    running_->end_step({&eight, 1});
    EXPECT_TRUE(at::equal(activation(3, 8).hi, before.hi));
  }
}

TEST_F(OneRank, PassesOfASkippedUpdateMoveNoRange) {
  QuantConfig quant;
  quant.activation = {.granularity = Granularity::kTensor, .range = RangeSource::kRunning};
  build(quant);
  step(0, 8);
  step(1, 4);
  const CalibratedRange eight = activation(0, 8), four = activation(0, 4);
  int updates = 0;
  rank_->runner().set_loss_hook([&](std::int64_t, double loss) { return ++updates == 2 ? NAN : loss; });
  running_->begin_step();
  const StepOutcome outcome = rank_->run({.step = 2,
                                          .maps = {{.weight_bits = 8, .activation_bits = 8, .gradient_bits = 8},
                                                   {.weight_bits = 4, .activation_bits = 4, .gradient_bits = 8}},
                                          .updates = {{.passes = {{.map = 0}}}, {.passes = {{.map = 1}}}}});
  ASSERT_FALSE(outcome.updates.at(0).skipped);
  ASSERT_TRUE(outcome.updates.at(1).skipped);
  const std::vector<PrecisionMap> maps = {map(8), map(4)};
  running_->end_step(maps);
  EXPECT_EQ(activation(0, 8).batches, eight.batches + 1);
  EXPECT_FALSE(at::equal(activation(0, 8).hi, eight.hi));
  EXPECT_EQ(activation(0, 4).batches, four.batches);
  EXPECT_TRUE(at::equal(activation(0, 4).hi, four.hi));
}

TEST_F(OneRank, EvaluationQuantizesWithTheRunningRangeAndCptsTrainingWithThePassesOwn) {
  for (const QuantizerKind method : {QuantizerKind::kCpt, QuantizerKind::kEma}) {
    QuantConfig quant;
    quant.activation = {.method = method, .granularity = Granularity::kTensor, .range = RangeSource::kRunning};
    build(quant);
    step(0, 4);
    const at::NoGradGuard no_grad;
    const PrecisionMap four = map(4);
    const at::Tensor x = at::randn({5, 16}) * 40.0;
    const auto output = [&](RangeSink* sink) { return layer(0).forward(x, {.precision = &four, .range_sink = sink}); };
    const Quantizer dynamic("layer", "activation", {.method = method, .granularity = Granularity::kTensor},
                            RangesOf::kData);
    const auto expected = [&](const at::Tensor& xq) {
      return at::linear(xq, layer(0).values(four.at(0)).weight,
                        rank_->model().parameters().tensor(layer(0).spec().bias));
    };
    const at::Tensor held = expected(dynamic.fake_quant(x, BitWidth(4), &activation(0, 4)));
    const at::Tensor own = expected(dynamic.fake_quant(x, BitWidth(4)));
    EXPECT_TRUE(at::allclose(output(nullptr), held, 1e-4, 1e-4));
    EXPECT_TRUE(at::allclose(output(&*running_), method == QuantizerKind::kCpt ? own : held, 1e-4, 1e-4));
  }
}

TEST_F(OneRank, WeightsByEmaFollowTheirWeights) {
  QuantConfig quant;
  quant.weight = {.method = QuantizerKind::kEma, .granularity = Granularity::kTensor};
  quant.running_momentum = 0.5;
  build(quant);
  step(0, 4);
  const int id = layer(2).spec().weight;
  std::vector<float> values = rank_->model().parameters().host_values(id);
  const CalibratedRange before = layer(2).weight_quantizer().required({.weight = 4, .activation = 32});
  for (float& value : values) value *= 3.0F;
  rank_->model().parameters().set_values(id, values);
  step(1, 4);
  const CalibratedRange& after = layer(2).weight_quantizer().required({.weight = 4, .activation = 32});
  EXPECT_TRUE(at::allclose(after.hi, before.hi * 2.0));
  EXPECT_TRUE(at::allclose(after.lo, before.lo * 2.0));
}

TEST_F(OneRank, RangesThatAreNotFiniteMoveNothing) {
  QuantConfig quant;
  quant.activation = {
      .method = QuantizerKind::kEma, .granularity = Granularity::kTensor, .range = RangeSource::kRunning};
  build(quant);
  step(0, 8);
  const CalibratedRange before = activation(2, 8);
  said_.clear();
  running_->observe(2, test::both(8), {.lo = at::zeros({1}), .hi = at::full({1}, INFINITY), .mean = {}});
  running_->count_update();
  const PrecisionMap eight = map(8);
  running_->end_step({&eight, 1});
  EXPECT_TRUE(at::equal(activation(2, 8).hi, before.hi));
  EXPECT_THAT(said_, ::testing::ElementsAre(HasSubstr("inputs of h.0.mlp.c_fc were not finite")));
}

TEST_F(OneRank, PercentilesAndEntropyNarrowWhatCalibrationSaw) {
  QuantConfig quant;
  quant.activation = kCalibratedTensor;
  build(quant);
  calibrator_->before_step(map(4), 0);
  const at::Tensor x = first_inputs(*rank_, kCalibrationSample, 6);
  const CalibratedRange all = activation(0, 4);
  EXPECT_NEAR(all.hi.item<double>(), x.max().item<double>(), 1e-5);
  quant.calibration_method = CalibrationMethod::kPercentile;
  quant.calibration_percentile = 90.0;
  build(quant);
  std::optional<CalibrationReport> told;
  calibrator_->set_on_report([&](const CalibrationReport& report) { told = report; });
  calibrator_->before_step(map(4), 0);
  const at::Tensor sorted = std::get<0>(at::sort(x.abs().view(-1)));
  const double limit = sorted[static_cast<std::int64_t>(0.9 * static_cast<double>(sorted.numel()))].item<double>();
  const double bin = x.abs().max().item<double>() / static_cast<double>(kHistogramBins);
  EXPECT_NEAR(activation(0, 4).hi.item<double>(), limit, 3.0 * bin);
  EXPECT_NEAR(activation(0, 4).lo.item<double>(), -limit, 3.0 * bin);
  // The report has what was seen, not what was made of it.
  ASSERT_TRUE(told);
  ASSERT_THAT(told->layers, SizeIs(8));
  const InputStatistics& seen = told->layers[0].inputs;
  EXPECT_NEAR(seen.max, x.max().item<double>(), 1e-5);
  EXPECT_NEAR(seen.min, x.min().item<double>(), 1e-5);
  EXPECT_NEAR(seen.mean, x.mean().item<double>(), 1e-5);
  EXPECT_NEAR(seen.deviation, x.std(/*unbiased=*/false).item<double>(), 1e-4);
  EXPECT_EQ(seen.count, x.numel());
  EXPECT_NEAR(told->layers[0].hi, limit, 3.0 * bin);
  EXPECT_EQ(told->calibrated, 8);
  EXPECT_EQ(told->quantizers, 8);
  EXPECT_EQ(told->weights.quantizers, 8);
  const at::Tensor steps = layer(0).weight_steps(map(4).at(0));
  EXPECT_LE(told->weights.least, steps.min().item<double>());
  EXPECT_GE(told->weights.most, steps.max().item<double>());
  EXPECT_THAT(doubts_of(*told), ::testing::IsEmpty());
  quant.calibration_method = CalibrationMethod::kEntropy;
  build(quant);
  calibrator_->before_step(map(4), 0);
  EXPECT_LE(activation(0, 4).hi.item<double>(), all.hi.item<double>());
  EXPECT_GT(activation(0, 4).hi.item<double>(), 0.0);
}

TEST_F(OneRank, LearnedStepsBeginWithTheCalibrationBatchesAndTheWeights) {
  QuantConfig quant;
  quant.weight = {.method = QuantizerKind::kLsq, .granularity = Granularity::kTensor};
  quant.activation = {
      .method = QuantizerKind::kLsq, .granularity = Granularity::kTensor, .range = RangeSource::kLearned};
  build(quant);
  calibrator_->before_step(map(4), 0);
  const auto value = [&](const std::string& name) {
    for (int id = 0; id < rank_->model().parameters().count(); ++id)
      if (rank_->model().parameters().info(id).name == name) return rank_->model().parameters().host_values(id).at(0);
    return -1.0F;
  };
  const at::Tensor x = first_inputs(*rank_, kCalibrationSample, 6);
  EXPECT_NEAR(value("transformer.h.0.attn.c_attn.activation_step.w4"),
              2.0 * x.abs().mean().item<double>() / std::sqrt(7.0), 1e-5);
  const at::Tensor w = rank_->model().parameters().tensor(layer(0).spec().weight).detach();
  EXPECT_NEAR(value("transformer.h.0.attn.c_attn.weight_step.w4"), 2.0 * w.abs().mean().item<double>() / std::sqrt(7.0),
              1e-7);
  EXPECT_EQ(value("transformer.h.0.attn.c_attn.weight_step.w8"), 0.0F);
  const float before = value("transformer.h.0.mlp.c_fc.activation_step.w4");
  (void)rank_->step(0, 4, 8);
  EXPECT_NE(value("transformer.h.0.mlp.c_fc.activation_step.w4"), before);
  const float trained = value("transformer.h.0.mlp.c_fc.activation_step.w4");
  calibrator_->before_step(map(4), 1);  // begins once
  EXPECT_EQ(value("transformer.h.0.mlp.c_fc.activation_step.w4"), trained);
}

TEST_F(TrainerTest, ARunWritesWhatItsCalibrationsFound) {
  TrainerOptions o = options("run", 6);
  train(o, 2, kCalibratedTensor);
  std::ifstream in(root_ / "run" / "calibration.jsonl");
  std::vector<Value> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(parse_json(line, "calibration"));
  ASSERT_FALSE(lines.empty());
  EXPECT_EQ(lines[0].at("step").as_int(), 0);
  EXPECT_EQ(lines[0].at("weight_bits").as_int(), 3);
  EXPECT_EQ(lines[0].at("calibrated").as_int(), 8);
  EXPECT_EQ(lines[0].at("quantizers").as_int(), 8);
  EXPECT_THAT(lines[0].at("layers").as_array(), SizeIs(8));
  EXPECT_EQ(lines[0].at("layers").as_array()[0].at("layer").as_string(), "h.0.attn.c_attn");
  EXPECT_THAT(read("run", "logs/rank_000.log"), HasSubstr("calibrated at step 0, W3 A3: 8 of 8 activation ranges"));
}

}  // namespace
}  // namespace qat

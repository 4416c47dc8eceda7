// Runs with calibrated ranges.
#include <optional>

#include "src/eval/perplexity.h"
#include "src/train/range_state.h"
#include "tests/support/trainer_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TrainerTest;

TEST_F(TrainerTest, CalibratedRangesAreKeptInTheCheckpoint) {
  const QuantizerConfig calibrated{.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  const End whole = train(options("whole", 8), 1, calibrated);
  TrainerOptions part = options("part", 8);
  std::atomic<int> signal{0};
  train(
      part, 2, calibrated,
      [&](Trainer& trainer) {
        trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, int, const at::Tensor&) {
          if (step == 3) signal = 15;
        });
      },
      &signal);
  const End resumed = train(part, 2, calibrated);
  EXPECT_EQ(resumed.parameters, whole.parameters);
}

// Evaluation calibrates widths that training has not reached; what training calibrates, and when, is its own.
TEST_F(TrainerTest, EvaluationChangesNoBitOfTrainingWithCalibratedRanges) {
  const QuantizerConfig calibrated{.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  std::optional<End> first;
  for (const std::int64_t every : {0, 1, 5}) {
    TrainerOptions o = options("every " + std::to_string(every), 12);
    o.quant.widths = {2, 3, 4, 5, 6, 8, 32};
    o.eval.bits = {32, 8, 6, 4, 3, 2};
    o.eval.every = every;
    const End end = train(o, 2, calibrated);
    if (!first) first = end;
    EXPECT_EQ(end.parameters, first->parameters) << every;
    EXPECT_EQ(end.result.table, first->result.table) << every;
    EXPECT_EQ(curve("every " + std::to_string(every)), curve("every 0"));
  }
}

// The final table from the final checkpoint alone: with training's ranges where it has them, and for widths that it
// never used with those that the evaluation had of its own.
TEST_F(TrainerTest, TheFinalCheckpointHoldsTheRangesOfTheFinalTable) {
  for (const std::int64_t recalibrate_every : {0, 5}) {
    const std::string dir = "run " + std::to_string(recalibrate_every);
    TrainerOptions o = options(dir, 12);
    o.quant.widths = {2, 3, 4, 5, 6, 8, 32};
    o.eval.bits = {32, 8, 6, 3, 2};
    o.quant.recalibrate_every = recalibrate_every;
    o.quant.activation = {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
    train(o, 2, o.quant.activation);
    const CheckpointReader reader =
        CheckpointReader::open(list_checkpoints(fs::path(o.run.dir) / "checkpoints").back().folder);
    test::TinyModel mine;
    mine.quant = o.quant;
    mine.build(/*seed=*/99);
    const auto comm = dist::make_single_comm();
    load_model(&reader, *mine.model, *comm, LoadFor::kEvaluation, o.config_json);
    const EvaluationRanges own = load_evaluation_ranges(&reader, *mine.model, *comm, {32, 8, 6, 3, 2});
    EXPECT_TRUE(own.contains(2));
    EXPECT_FALSE(own.contains(8));                      // in force since step 11
    EXPECT_EQ(own.contains(3), recalibrate_every > 0);  // since step 6, before the last multiple of 5
    const TokenSource held_out = test::tiny_tokens(300);
    dist::StopPoll never(*comm);
    const auto scores = *score_widths(*mine.model, HeldOutText(held_out), {32, 8, 6, 3, 2}, mine.quant, o.eval, 12, 1,
                                      *comm, never, own);
    const Value report = parse_json(read(dir, "report.json"), "report.json");
    for (std::size_t i = 0; i < scores.size(); ++i)
      EXPECT_EQ(report.at("widths").as_array()[i].at("nll").as_double(), scores[i].score.nll_sum) << scores[i].at.bits;
  }
}

TEST_F(TrainerTest, RangesTakenAnewAreTheSameRunOnAnyRanksAndAfterAResume) {
  const QuantizerConfig calibrated{.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  const auto with = [&](const std::string& dir, std::int64_t every) {
    TrainerOptions o = options(dir, 12);
    o.quant.recalibrate_every = every;
    return o;
  };
  const End kept = train(with("kept", 0), 1, calibrated), renewed = train(with("renewed", 5), 1, calibrated);
  EXPECT_NE(renewed.parameters, kept.parameters);
  EXPECT_EQ(train(with("ranks", 5), 4, calibrated).parameters, renewed.parameters);
  for (const int stop : {4, 5, 7}) {
    const TrainerOptions part = with("part " + std::to_string(stop), 5);
    std::atomic<int> signal{0};
    const End stopped = train(
        part, 2, calibrated,
        [&](Trainer& trainer) {
          trainer.runner().set_gradient_hook([&](std::int64_t step, std::int64_t, int, const at::Tensor&) {
            if (step == stop) signal = 15;
          });
        },
        &signal);
    ASSERT_FALSE(stopped.result.finished);
    EXPECT_EQ(train(part, 2, calibrated).parameters, renewed.parameters) << "stopped in step " << stop;
  }
}

TEST_F(TrainerTest, CalibratesOnAsManyBatchesAsAsked) {
  TrainerOptions o = options("run", 4);
  o.quant.calibration_batches = 4;
  train(o, 2, {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated});
  const auto reader = CheckpointReader::open(list_checkpoints(root_ / "run/checkpoints").back().folder);
  EXPECT_EQ(reader.attribute<std::int64_t>("/quant/h.0.attn.c_attn/activation/w3a3/lo", "batches"), 4);
}

}  // namespace
}  // namespace qat

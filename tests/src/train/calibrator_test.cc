#include "src/train/calibrator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <mutex>

#include "dist/comm/agree.h"
#include "src/train/batch.h"
#include "tests/support/calibrated_range.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr CalibratorOptions kThreeBatches{.seed = 1, .batches = 3, .micro_batch_size = 2, .sequence_length = 12};

TinyModel calibrated_model() {
  TinyModel spec;
  spec.quant.activation = {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  return spec;
}

std::vector<std::int64_t> all_layers(const Gpt2& model) {
  std::vector<std::int64_t> layers;
  for (const QuantLinear& linear : model.linears()) layers.push_back(linear.spec().index);
  return layers;
}

// What a layer sees: the first one's inputs are the normalized embeddings, whatever the widths.
TEST(Calibration, SeesBatchesOfItsOwnFromFarBeyondTraining) {
  const TokenSource tokens = test::tiny_tokens();
  const auto comm = dist::make_single_comm();
  TinyModel spec;
  spec.config.quantize_lm_head = true;
  spec.quant.activation = {.granularity = Granularity::kFeature, .range = RangeSource::kCalibrated};
  TinyRank rank(spec, tokens, *comm, test::tiny_options());
  const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 4, 4, 8);
  dist::StopPoll never(*comm);
  const Calibration found =
      calibrate(rank.model(), map, all_layers(rank.model()), rank.sampler(), *comm, never, kThreeBatches).value();
  at::Tensor lo, hi;
  for (std::uint64_t i = 0; i < 3; ++i) {
    const Batch batch = sample_batch(rank.sampler(), (std::uint64_t{1} << 40U) + i * 2, 2, 12, at::kCPU);
    const auto& store = rank.model().parameters();
    const at::Tensor x = at::layer_norm(at::embedding(store.tensor(0), batch.inputs) + store.tensor(1).narrow(0, 0, 12),
                                        {16});  // norms begin as 1, 0
    const at::Tensor least = x.amin({0, 1}), most = x.amax({0, 1});
    lo = lo.defined() ? at::minimum(lo, least) : least, hi = hi.defined() ? at::maximum(hi, most) : most;
  }
  EXPECT_TRUE(at::allclose(found.ranges.at(0).lo, lo, 1e-5, 1e-5));
  EXPECT_TRUE(at::allclose(found.ranges.at(0).hi, hi, 1e-5, 1e-5));
  EXPECT_THAT(found.ranges, SizeIs(9));  // the head saw them too
  EXPECT_EQ(found.ranges.at(8).batches, 3);
  // Nothing is in force yet.
  for (const QuantLinear& linear : rank.model().linears())
    EXPECT_THAT(linear.activation_quantizer().ranges(), IsEmpty());
}

// 2-bit log codes keep the mean exponent, of batches that ranks have in unequal numbers.
TEST(Calibration, MeansAreOverAllBatchesOfAllRanksWithTheSameBits) {
  at::set_num_threads(1);
  const TokenSource tokens = test::tiny_tokens();
  std::vector<float> expected;
  std::mutex mutex;
  for (const int ranks : {1, 2, 3, 4}) {
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel spec;
      spec.quant.activation = {
          .method = QuantizerKind::kLog, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
      StepRunnerOptions options = test::tiny_options();
      options.train.batch_size = 48;
      TinyRank rank(spec, tokens, comm, options);
      const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 2, 2, 8);
      dist::StopPoll never(comm);
      const Calibration found = calibrate(rank.model(), map, all_layers(rank.model()), rank.sampler(), comm, never,
                                          {.seed = 1, .batches = 7, .micro_batch_size = 2, .sequence_length = 12})
                                    .value();
      std::vector<float> means;
      for (const auto& [layer, range] : found.ranges) {
        EXPECT_GT(range.mean.item<float>(), range.lo.item<float>());
        EXPECT_LT(range.mean.item<float>(), range.hi.item<float>());
        means.push_back(range.mean.item<float>());
      }
      const std::lock_guard lock(mutex);
      if (expected.empty()) expected = means;
      EXPECT_EQ(means, expected) << ranks;
    });
  }
}

// Whichever rank has the batch that overflows, all of them stop with the same words.
TEST(Calibration, ValuesThatAreNotFiniteAreEveryRanksError) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec = calibrated_model();
    TinyRank rank(spec, tokens, comm, test::tiny_options());
    if (comm.rank() == 1) {
      std::vector<float> bad = rank.model().parameters().host_values(0);
      std::fill(bad.begin(), bad.end(), INFINITY);
      rank.model().parameters().set_values(0, bad);
    }
    const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), 4, 4, 8);
    dist::StopPoll never(comm);
    try {
      (void)calibrate(rank.model(), map, all_layers(rank.model()), rank.sampler(), comm, never, kThreeBatches);
      ADD_FAILURE() << "accepted on rank " << comm.rank();
    } catch (const dist::AgreedError& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kDiverged);
      EXPECT_THAT(error.what(), HasSubstr("rank 1 only"));
    }
  });
}

// Ranks have unequally many batches, and ask at the same places all the same.
TEST(Calibration, StopsBetweenBatchesWhenARankIsAskedTo) {
  const TokenSource tokens = test::tiny_tokens();
  for (const int who : {0, 1, 2}) {
    dist::run_local_ranks(3, [&](dist::Communicator& comm) {
      TinyModel spec = calibrated_model();
      StepRunnerOptions options = test::tiny_options();
      options.train.batch_size = 48;
      TinyRank rank(spec, tokens, comm, options);
      dist::StopPoll poll(comm, [&] { return comm.rank() == who ? 15 : 0; });
      Logger log(LoggerOptions{});
      Calibrator calibrator(rank.model(), spec.quant, rank.sampler(), comm, poll, log,
                            {.seed = 1, .batches = 7, .micro_batch_size = 2, .sequence_length = 12});
      EXPECT_FALSE(calibrator.before_step(PrecisionMap::uniform(spec.config.linears(), 4, 4, 8), 0));
      EXPECT_TRUE(rank.model().linears()[0].activation_quantizer().ranges().empty());
      EXPECT_EQ(calibrator.for_evaluation({8}, 0), nullptr);
    });
  }
}

TEST(LayersToCalibrate, AreThoseWithoutARangeAndThoseWhoseRangeIsOfAnEarlierPeriod) {
  TinyModel spec = calibrated_model();
  spec.build();
  Gpt2& model = *spec.model;
  const auto layers = [&](int bits, std::int64_t step, std::int64_t every) {
    return layers_to_calibrate(model, PrecisionMap::uniform(spec.config.linears(), bits, bits), step, every);
  };
  EXPECT_EQ(layers(8, 0, 0), all_layers(model));
  EXPECT_THAT(layers(32, 0, 10), IsEmpty());
  const CalibratedRange range{.lo = at::zeros({1}), .hi = at::ones({1}), .mean = {}, .batches = 1, .step = 12};
  model.linears()[2].activation_quantizer().put_in_force(test::both(8), range);
  EXPECT_THAT(layers(8, 1000, 0), ElementsAre(0, 1, 3, 4, 5, 6, 7));
  EXPECT_THAT(layers(8, 19, 10), ElementsAre(0, 1, 3, 4, 5, 6, 7));
  EXPECT_EQ(layers(8, 20, 10), all_layers(model));  // taken at 12, between 10 and 20
  EXPECT_EQ(layers(4, 12, 0), all_layers(model));   // another width
  const PrecisionMap other_weights = PrecisionMap::uniform(spec.config.linears(), 4, 8);
  EXPECT_EQ(layers_to_calibrate(model, other_weights, 12, 0), all_layers(model));
  spec.quant.activation.range = RangeSource::kDynamic;
  spec.build();
  EXPECT_THAT(layers_to_calibrate(*spec.model, PrecisionMap::uniform(spec.config.linears(), 8, 8), 0, 0), IsEmpty());
}

// One rank of a run with a Calibrator, without the Trainer.
class CalibratorTest : public ::testing::Test {
 protected:
  CalibratorTest() {
    spec_.quant.recalibrate_every = 10;
    rank_.emplace(spec_, tokens_, *comm_, test::tiny_options());
    calibrator_.emplace(rank_->model(), spec_.quant, rank_->sampler(), *comm_, never_, log_, kThreeBatches);
  }
  PrecisionMap map(int bits) const { return PrecisionMap::uniform(spec_.config.linears(), bits, bits, 8); }
  // By the width that weights and activations share.
  std::map<int, CalibratedRange> in_force(std::size_t layer) {
    std::map<int, CalibratedRange> found;
    for (const auto& [widths, range] : rank_->model().linears()[layer].activation_quantizer().ranges()) {
      EXPECT_EQ(widths.weight, widths.activation);
      found.emplace(widths.activation, range);
    }
    return found;
  }
  // What h.0.attn.c_proj, layer 1, sees grows by so much.
  void shift_attention(float by) {
    Gpt2& model = rank_->model();
    const int bias = model.linears()[0].spec().bias;
    std::vector<float> values = model.parameters().host_values(bias);
    for (float& value : values) value += by;
    model.parameters().set_values(bias, values);
  }

  TinyModel spec_ = calibrated_model();
  TokenSource tokens_ = test::tiny_tokens();
  std::unique_ptr<dist::Communicator> comm_ = dist::make_single_comm();
  dist::StopPoll never_{*comm_};
  std::vector<std::string> said_;
  Logger log_{{.dir = {}, .console_level = LogLevel::kDebug, .console = [this](std::string_view line) {
                 said_.emplace_back(line);
               }}};
  std::optional<TinyRank> rank_;
  std::optional<Calibrator> calibrator_;
};

TEST_F(CalibratorTest, TrainingTakesARangeAtTheFirstUseOfItsWidthAndAgainInEveryPeriodThatUsesIt) {
  calibrator_->before_step(map(8), 3);
  EXPECT_THAT(said_, ElementsAre(HasSubstr("calibrating activation ranges at step 3"),
                                 ::testing::AllOf(HasSubstr("calibrated at step 3, W8 A8: 8 of 8 activation ranges"),
                                                  HasSubstr("of 8 quantizers; weight steps"))));
  ASSERT_TRUE(in_force(1).contains(8));
  EXPECT_EQ(in_force(1).at(8).step, 3);
  EXPECT_FALSE(in_force(1).contains(4));
  const float before = in_force(1).at(8).hi.item<float>();
  shift_attention(3.0F);
  calibrator_->before_step(map(8), 9);
  EXPECT_EQ(in_force(1).at(8).hi.item<float>(), before);
  calibrator_->before_step(map(4), 11);
  EXPECT_EQ(in_force(1).at(8).hi.item<float>(), before);
  EXPECT_EQ(in_force(1).at(4).step, 11);
  said_.clear();
  calibrator_->before_step(map(8), 12);
  EXPECT_GT(in_force(1).at(8).hi.item<float>(), before + 1.0F);
  EXPECT_EQ(in_force(1).at(8).step, 12);
  // Nearly everything that this layer sees now lay beyond the old range.
  ASSERT_THAT(said_, SizeIs(3));
  EXPECT_THAT(said_[2], ::testing::AllOf(HasSubstr("8 layers"), HasSubstr("h.0.attn.c_proj, 100.00 % lay beyond")));
  said_.clear();
  calibrator_->before_step(map(8), 13);
  EXPECT_THAT(said_, IsEmpty());
}

TEST_F(CalibratorTest, EvaluationsOwnRangesNeverComeIntoForceAndAreMadeOncePerStateOfTraining) {
  calibrator_->before_step(map(8), 0);
  const EvaluationRanges first = *calibrator_->for_evaluation({32, 8, 4}, 5);
  ASSERT_THAT(first, SizeIs(1));  // at 8 bits it uses training's
  EXPECT_THAT(first.at(4), SizeIs(8));
  EXPECT_THAT(in_force(0), SizeIs(1));
  const float narrow = first.at(4).at(1).hi.item<float>();
  shift_attention(3.0F);
  EXPECT_EQ(calibrator_->for_evaluation({8, 4}, 5)->at(4).at(1).hi.item<float>(), narrow);
  EXPECT_THAT(*calibrator_->for_evaluation({3}, 5), SizeIs(2));
  EXPECT_THAT(calibrator_->made_after(5), SizeIs(2));
  EXPECT_GT(calibrator_->for_evaluation({4}, 6)->at(4).at(1).hi.item<float>(), narrow + 1.0F);
  EXPECT_THAT(calibrator_->made_after(7), IsEmpty());
  // From step 10 on training would take the range of 8 bits anew, and so does evaluation for itself.
  EXPECT_THAT(*calibrator_->for_evaluation({8}, 10), SizeIs(1));
  EXPECT_EQ(in_force(0).at(8).step, 0);
}

TEST_F(CalibratorTest, EvaluationsRangesAreThoseThatTrainingWouldTake) {
  const EvaluationRanges own = *calibrator_->for_evaluation({4}, 0);
  calibrator_->before_step(map(4), 0);
  for (std::size_t layer = 0; layer < 8; ++layer) {
    EXPECT_TRUE(at::equal(own.at(4).at(static_cast<std::int64_t>(layer)).lo, in_force(layer).at(4).lo));
    EXPECT_TRUE(at::equal(own.at(4).at(static_cast<std::int64_t>(layer)).hi, in_force(layer).at(4).hi));
  }
}

TEST_F(CalibratorTest, AModelThatCannotBeCalibratedIsWarnedOfBeforeASaveAndAnErrorInEvaluation) {
  shift_attention(INFINITY);
  calibrator_->prepare_evaluation({4}, 5);
  ASSERT_THAT(said_, SizeIs(1));
  EXPECT_THAT(said_[0], ::testing::AllOf(HasSubstr("warning"), HasSubstr("step 5"), HasSubstr("not finite")));
  EXPECT_THAT(calibrator_->made_after(5), IsEmpty());
  EXPECT_THROW((void)calibrator_->for_evaluation({4}, 5), Error);
}

}  // namespace
}  // namespace qat

// A checkpoint read back: what each counter, range and adapter becomes.
#include "src/train/run_state.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "kernels/common/error.h"
#include "src/train/range_state.h"
#include "tests/support/calibrated_range.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;
using test::TinyRank;

class RunStateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    root_ = fs::temp_directory_path() / ("qat run state " + std::to_string(getpid()));
    fs::remove_all(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  CheckpointReader saved(TinyRank& rank, TrainState state, const EvaluationRanges& ranges = {}) {
    if (state.config_json.empty()) state.config_json = "{}";
    return CheckpointReader::open(save_run(root_, state, rank.model(), rank.runner().optimizer(), *comm_, ranges));
  }
  std::vector<std::string> load(const CheckpointReader& reader, TinyRank& rank, LoadFor purpose = LoadFor::kResume,
                                const std::string& config_json = "{}") {
    return load_model(&reader, rank.model(), *comm_, purpose, config_json);
  }
  static TinyModel log_model() {
    TinyModel spec;
    spec.quant.activation = {
        .method = QuantizerKind::kLog, .granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
    return spec;
  }

  fs::path root_;
  TokenSource tokens_ = test::tiny_tokens();
  std::unique_ptr<dist::Communicator> comm_ = dist::make_single_comm();
};

TEST_F(RunStateTest, EveryCounterComesBackOnEveryRank) {
  TinyModel spec;
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options());
  const TrainState state{.step = 3,
                         .seed = 4,
                         .config_hash = 5,
                         .config_json = "{}",
                         .world_size = 6,
                         .consumed_samples = 7,
                         .consumed_tokens = 8,
                         .skips_in_row = 9,
                         .skips_total = 10,
                         .bitops = 11.5,
                         .bitops_at_full = 12.5,
                         .data_json = "[13]"};
  const CheckpointReader reader = saved(rank, state);
  dist::run_local_ranks(
      2, [&](dist::Communicator& comm) { EXPECT_EQ(load_state(comm.rank() == 0 ? &reader : nullptr, comm), state); });
}

TEST_F(RunStateTest, TrainingsRangesOfEveryWidthComeBackWithTheirMeansAndSteps) {
  TinyModel spec = log_model(), other_spec = log_model();
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options()), other(other_spec, tokens_, *comm_, test::tiny_options());
  Quantizer& quantizer = rank.model().linears()[1].activation_quantizer();
  for (const int bits : {2, 18}) {
    const auto value = static_cast<float>(bits);
    CalibratedRange range =
        test::range_of(quantizer, BitWidth(bits), {at::full({2, 3}, 1.0F + value), at::full({2, 3}, 4.0F + value)});
    range.step = 10 * bits;
    quantizer.put_in_force(test::both(bits), range);
  }
  const CheckpointReader reader = saved(rank, {.step = 1});
  load(reader, other);
  const auto& ranges = other.model().linears()[1].activation_quantizer().ranges();
  ASSERT_EQ(ranges.size(), 2U);
  for (const int bits : {2, 18}) {
    const CalibratedRange &got = ranges.at(test::both(bits)), &want = quantizer.ranges().at(test::both(bits));
    EXPECT_TRUE(at::equal(got.lo, want.lo));
    EXPECT_TRUE(at::equal(got.hi, want.hi));
    EXPECT_EQ(got.mean.defined(), bits == 2);
    EXPECT_EQ(got.batches, 2);
    EXPECT_EQ(got.step, 10 * bits);
  }
  EXPECT_TRUE(at::equal(ranges.at(test::both(2)).mean, quantizer.ranges().at(test::both(2)).mean));
  EXPECT_TRUE(other.model().linears()[0].activation_quantizer().ranges().empty());
}

TEST_F(RunStateTest, RangesOfOlderCheckpointsHoldForWeightsOfAnyWidth) {
  TinyModel spec = log_model(), other_spec = log_model();
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options()), other(other_spec, tokens_, *comm_, test::tiny_options());
  Quantizer& quantizer = rank.model().linears()[1].activation_quantizer();
  const RangeWidths any{.weight = RangeWidths::kAnyWeights, .activation = 4}, of_six{.weight = 6, .activation = 4};
  quantizer.put_in_force(any, test::range_of(quantizer, BitWidth(4), {at::full({2, 3}, 2.0F)}));
  quantizer.put_in_force(of_six, test::range_of(quantizer, BitWidth(4), {at::full({2, 3}, 8.0F)}));
  const CheckpointReader reader = saved(rank, {.step = 1});
  EXPECT_TRUE(reader.has_tensor("/quant/h.0.attn.c_proj/activation/4/lo"));  // as they were named
  EXPECT_TRUE(reader.has_tensor("/quant/h.0.attn.c_proj/activation/w6a4/lo"));
  load(reader, other);
  const Quantizer& got = other.model().linears()[1].activation_quantizer();
  ASSERT_EQ(got.ranges().size(), 2U);
  EXPECT_TRUE(at::equal(got.required({.weight = 3, .activation = 4}).hi, quantizer.required(any).hi));
  EXPECT_TRUE(at::equal(got.required(of_six).hi, quantizer.required(of_six).hi));
}

TEST_F(RunStateTest, EvaluationsRangesComeBackOnEveryRankAndNeverIntoForce) {
  TinyModel spec = log_model();
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options());
  const auto range = [](float lo) {
    return CalibratedRange{.lo = at::full({1}, lo), .hi = at::full({1}, 9.0F), .mean = {}, .batches = 3};
  };
  EvaluationRanges own;
  own[4][0] = range(1.0F), own[4][5] = range(2.0F), own[2][5] = range(3.0F);
  own[2][5].mean = at::full({1}, 5.0F);
  const CheckpointReader reader = saved(rank, {.step = 1}, own);
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel mine = log_model();
    TinyRank other(mine, tokens_, comm, test::tiny_options());
    const CheckpointReader* root = comm.rank() == 0 ? &reader : nullptr;
    load_model(root, other.model(), comm, LoadFor::kEvaluation, "{}");
    const EvaluationRanges got = load_evaluation_ranges(root, other.model(), comm);
    ASSERT_EQ(got.size(), 2U);
    ASSERT_EQ(got.at(4).size(), 2U);
    EXPECT_EQ(got.at(4).at(0).lo.item<float>(), 1.0F);
    EXPECT_EQ(got.at(4).at(5).lo.item<float>(), 2.0F);
    EXPECT_FALSE(got.at(4).at(5).mean.defined());
    EXPECT_EQ(got.at(2).at(5).lo.item<float>(), 3.0F);
    EXPECT_EQ(got.at(2).at(5).mean.item<float>(), 5.0F);
    for (const QuantLinear& linear : other.model().linears())
      EXPECT_TRUE(linear.activation_quantizer().ranges().empty());
  });
}

TEST_F(RunStateTest, RangesOfAnotherQuantizerAndThoseOfABaseAreLeftOut) {
  TinyModel spec = log_model();
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options());
  test::hold(rank.model().linears()[1].activation_quantizer(), BitWidth(4), {at::ones({2, 3})});
  const CheckpointReader reader =
      saved(rank, {.step = 1, .config_json = R"({"quant": {"activation": {"method": "log"}}})"});
  const auto ranges_after = [&](LoadFor purpose, const std::string& config, std::size_t notes) {
    TinyModel mine = log_model();
    TinyRank other(mine, tokens_, *comm_, test::tiny_options());
    EXPECT_EQ(load(reader, other, purpose, config).size(), notes);
    return other.model().linears()[1].activation_quantizer().ranges().size();
  };
  const std::string same = R"({"quant": {"activation": {"method": "log"}}})",
                    other = R"({"quant": {"activation": {"method": "minmax"}}})";
  EXPECT_EQ(ranges_after(LoadFor::kResume, same, 0), 1U);
  EXPECT_EQ(ranges_after(LoadFor::kEvaluation, same, 0), 1U);
  EXPECT_EQ(ranges_after(LoadFor::kResume, other, 1), 0U);
  EXPECT_EQ(ranges_after(LoadFor::kEvaluation, other, 1), 0U);
  EXPECT_EQ(ranges_after(LoadFor::kInitialValues, same, 0), 0U);
}

TEST_F(RunStateTest, ABaseTrainedWithoutAdaptersLoadsOnlyWhereThatIsWanted) {
  TinyModel base_spec, spec;
  base_spec.lora.rank = 0;
  StepRunnerOptions options = test::tiny_options();
  TinyRank base(base_spec, tokens_, *comm_, options);
  options.seed = 9;
  TinyRank rank(spec, tokens_, *comm_, options);
  const CheckpointReader reader = saved(base, {.step = 1});
  EXPECT_THROW(load(reader, rank), Error);
  EXPECT_THROW(load(reader, rank, LoadFor::kEvaluation), Error);
  const int id = rank.model().linears()[0].lora_a(), weight = rank.model().linears()[0].spec().weight;
  const std::vector<float> adapter = rank.model().parameters().host_values(id);
  EXPECT_EQ(load(reader, rank, LoadFor::kInitialValues).size(), 1U);
  EXPECT_EQ(rank.model().parameters().host_values(id), adapter);
  EXPECT_EQ(rank.model().parameters().host_values(weight),
            base.model().parameters().host_values(base.model().linears()[0].spec().weight));
}

TEST_F(RunStateTest, MatricesSayHowTheyLie) {
  TinyModel spec;
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options());
  const CheckpointReader reader = saved(rank, {.step = 1});
  EXPECT_EQ(reader.attribute<std::string>("/model/transformer.h.0.mlp.c_fc.weight", "layout"), "[out, in]");
}

}  // namespace
}  // namespace qat

// A checkpoint read back: what each counter, range and adapter becomes.
#include "src/train/run_state.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "kernels/common/error.h"
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

  CheckpointReader saved(TinyRank& rank, const TrainState& state) {
    return CheckpointReader::open(save_run(root_, state, rank.model(), rank.runner().optimizer(), *comm_));
  }
  static TinyModel log_model() {
    TinyModel spec;
    spec.quant.activation = {.method = "log", .granularity = "tensor", .range = "calibrated"};
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

TEST_F(RunStateTest, RangesOfEveryWidthComeBackWithTheirMeans) {
  TinyModel spec = log_model(), other_spec = log_model();
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options()), other(other_spec, tokens_, *comm_, test::tiny_options());
  Quantizer& quantizer = rank.model().linears()[1].activation_quantizer();
  for (const int bits : {2, 18}) {
    for (const float value : {1.0F, 4.0F})
      quantizer.observe(at::full({2, 3}, value + static_cast<float>(bits)), BitWidth(bits));
    quantizer.finish_calibration(BitWidth(bits));
  }
  const CheckpointReader reader = saved(rank, {.step = 1});
  load_model(&reader, other.model(), *comm_);
  const auto& ranges = other.model().linears()[1].activation_quantizer().ranges();
  ASSERT_EQ(ranges.size(), 2U);
  for (const int bits : {2, 18}) {
    const CalibratedRange &got = ranges.at(bits), &want = quantizer.ranges().at(bits);
    EXPECT_TRUE(at::equal(got.lo, want.lo));
    EXPECT_TRUE(at::equal(got.hi, want.hi));
    EXPECT_EQ(got.mean.defined(), bits == 2);
    EXPECT_EQ(got.batches, 2);
  }
  EXPECT_TRUE(at::equal(ranges.at(2).mean, quantizer.ranges().at(2).mean));
  EXPECT_TRUE(other.model().linears()[0].activation_quantizer().ranges().empty());
}

TEST_F(RunStateTest, ABaseTrainedWithoutAdaptersLoadsOnlyWhereThatIsWanted) {
  TinyModel base_spec, spec;
  base_spec.lora.rank = 0;
  StepRunnerOptions options = test::tiny_options();
  TinyRank base(base_spec, tokens_, *comm_, options);
  options.seed = 9;
  TinyRank rank(spec, tokens_, *comm_, options);
  const CheckpointReader reader = saved(base, {.step = 1});
  EXPECT_THROW(load_model(&reader, rank.model(), *comm_), Error);
  const int id = rank.model().linears()[0].lora_a(), weight = rank.model().linears()[0].spec().weight;
  const std::vector<float> adapter = rank.model().parameters().host_values(id);
  load_model(&reader, rank.model(), *comm_, /*base_only=*/true);
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

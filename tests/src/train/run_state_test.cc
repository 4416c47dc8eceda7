// A checkpoint read back: what each counter, range and adapter becomes.
#include "src/train/run_state.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <bit>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/checkpoint/manifest.h"
#include "src/checkpoint/writer.h"
#include "src/train/owned_state.h"
#include "src/train/range_state.h"
#include "src/train/run_pieces.h"
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
    const EvaluationRanges got = load_evaluation_ranges(root, other.model(), comm, {32, 8, 4, 3, 2});
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
  const int id = rank.model().linears()[0].adapter(8)->a, weight = rank.model().linears()[0].spec().weight;
  const std::vector<float> adapter = rank.model().parameters().host_values(id);
  EXPECT_EQ(load(reader, rank, LoadFor::kInitialValues).size(), 1U);
  EXPECT_EQ(rank.model().parameters().host_values(id), adapter);
  EXPECT_EQ(rank.model().parameters().host_values(weight),
            base.model().parameters().host_values(base.model().linears()[0].spec().weight));
}

// What all ranks together hold, with elements that say where they belong.
struct Held {
  static constexpr std::uint64_t kStart = 14695981039346656037ULL;
  static std::uint64_t hash(std::span<const float> values, std::uint64_t hash = kStart) {
    for (const float value : values) hash = (hash ^ std::bit_cast<std::uint32_t>(value)) * 1099511628211ULL;
    return hash;
  }
  // Of parameters, moments and counts of updates, the same on every rank.
  static std::uint64_t hash_of(TinyRank& rank, dist::Communicator& comm) {
    std::uint64_t all = hash(rank.parameters());
    for (const auto moment : {&OwnedState::exp_avg, &OwnedState::exp_avg_sq}) {
      std::vector<float> whole(static_cast<std::size_t>(rank.model().parameters().trainable_elems()));
      for_each_owned(rank, [&](const OwnedState& own, std::int64_t place, std::size_t i) {
        whole.at(static_cast<std::size_t>(place)) = (own.*moment)[i];
      });
      comm.all_reduce(view(std::span(whole)), dist::ReduceOp::kSum);  // one owner each: the others' are zeros
      all = hash(whole, all);
    }
    for (const std::int64_t steps : rank.runner().optimizer().steps())
      all = all * 31 + static_cast<std::uint64_t>(steps);
    return all;
  }
  static void fill(TinyRank& rank) {
    for_each_owned(rank, [](const OwnedState& own, std::int64_t place, std::size_t i) {
      own.exp_avg[i] = static_cast<float>(place) - 50'000.5F;
      own.exp_avg_sq[i] = static_cast<float>(place) + 0.25F;
    });
    std::vector<std::int64_t>& steps = rank.runner().optimizer().steps();
    for (std::size_t i = 0; i < steps.size(); ++i) steps[i] = static_cast<std::int64_t>(i) + 3;
  }
  // use(state, place of its element i among all trainable elements, i)
  template <typename Use>
  static void for_each_owned(TinyRank& rank, const Use& use) {
    const ParameterStore& store = rank.model().parameters();
    std::vector<std::int64_t> begin(static_cast<std::size_t>(store.count()));
    std::int64_t place = 0;
    for (int id = 0; id < store.count(); ++id) {
      begin[static_cast<std::size_t>(id)] = place;
      if (store.info(id).trainable) place += store.info(id).elems;
    }
    for (const OwnedState& own : owned_state(store, rank.runner().optimizer()))
      for (std::size_t i = 0; i < own.exp_avg.size(); ++i)
        use(own, begin[static_cast<std::size_t>(own.id)] + own.first + static_cast<std::int64_t>(i), i);
  }
};

// Large enough for eight ranks to own something, and a batch that six and eight ranks share.
TinyModel wide_model(bool freeze_base) {
  TinyModel spec;
  spec.config.n_embd = 64;
  spec.config.vocab_size = 701;
  spec.config.freeze_base = freeze_base;
  spec.lora.rank = 16;
  return spec;
}
StepRunnerOptions wide_options(std::uint64_t seed) {
  StepRunnerOptions options = test::tiny_options();
  options.train.batch_size = 48;
  options.seed = seed;
  return options;
}

// The same state as programs saved it before ranks had files: all tensors in checkpoint.h5.
fs::path in_format_1(const CheckpointReader& reader, const fs::path& root) {
  CheckpointWriter writer = CheckpointWriter::begin(root, reader.info().step);
  save_train_state(writer, load_train_state(reader));
  for (const std::string& name : reader.tensor_names()) {
    if (name.starts_with("/state/")) continue;
    const TensorInfo info = reader.tensor_info(name);
    std::vector<std::byte> bytes(static_cast<std::size_t>(element_count(info.shape)) * size_of(info.dtype));
    const BufferView values{bytes.data(), element_count(info.shape), info.dtype, Device::kCpu};
    reader.read_tensor(name, info.shape, values);
    writer.write_tensor(name, info.shape, ConstBufferView(values));
  }
  const fs::path folder = writer.commit().folder;
  std::string manifest = read_file(folder / kManifestName);
  std::ofstream(folder / kManifestName) << manifest.replace(manifest.find("\"version\": 2"), 12, "\"version\": 1");
  return folder;
}

TEST_F(RunStateTest, WhatAnyNumberOfRanksSavedAnyNumberLoadsWithTheSameHash) {
  for (const bool freeze_base : {false, true}) {
    std::set<std::uint64_t> hashes;
    const auto load_on = [&](int ranks, const fs::path& folder) {
      dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
        TinyModel spec = wide_model(freeze_base);
        TinyRank rank(spec, tokens_, comm, wide_options(/*seed=*/2));
        std::optional<CheckpointReader> reader;
        if (comm.rank() == 0) reader.emplace(CheckpointReader::open(folder));
        const CheckpointReader* root = reader ? &*reader : nullptr;
        load_model(root, rank.model(), comm, LoadFor::kResume, "{}");
        load_optimizer(root, rank.model(), rank.runner().optimizer(), comm);
        const std::uint64_t hash = Held::hash_of(rank, comm);
        if (comm.rank() == 0) hashes.insert(hash);
      });
    };
    for (const int saving : {1, 2, 3, 4, 6, 8}) {
      fs::path folder;
      dist::run_local_ranks(saving, [&](dist::Communicator& comm) {
        TinyModel spec = wide_model(freeze_base);
        TinyRank rank(spec, tokens_, comm, wide_options(/*seed=*/1));
        Held::fill(rank);
        const TrainState state{.step = saving, .config_json = "{}"};
        const fs::path saved = save_run(root_, state, rank.model(), rank.runner().optimizer(), comm);
        const bool writes = !pieces_to_save(rank.model(), rank.runner().optimizer(), comm).empty();
        EXPECT_EQ(fs::exists(saved / shard_file_name(comm.rank())), writes) << comm.rank();
        if (comm.rank() < 3) EXPECT_TRUE(writes);  // only the last ranks' shards may be all padding
        const std::uint64_t hash = Held::hash_of(rank, comm);
        if (comm.rank() == 0) hashes.insert(hash), folder = saved;
      });
      for (const int loading : {1, 2, 3, 4, 6, 8}) load_on(loading, folder);
      EXPECT_EQ(hashes.size(), 1U) << saving << " ranks saved";
      if (saving != 4) continue;
      const fs::path old = in_format_1(CheckpointReader::open(folder), root_ / "format 1");
      for (const int loading : {1, 3, 8}) load_on(loading, old);
      EXPECT_EQ(hashes.size(), 1U) << "format 1";
    }
  }
}

TEST_F(RunStateTest, MatricesSayHowTheyLie) {
  TinyModel spec;
  TinyRank rank(spec, tokens_, *comm_, test::tiny_options());
  const CheckpointReader reader = saved(rank, {.step = 1});
  EXPECT_EQ(reader.attribute<std::string>("/model/transformer.h.0.mlp.c_fc.weight", "layout"), "[out, in]");
}

}  // namespace
}  // namespace qat

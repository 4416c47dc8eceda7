// Training whose gradients travel as codes: layouts, levels, what is kept over steps, skips, resumes and other ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
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

StepRunnerOptions coded(WireFormatName wire, WireSumName sum = WireSumName::kCodeSum) {
  StepRunnerOptions options = test::tiny_options();
  options.comm = {.wire = wire, .sum = sum, .block = 64};
  return options;
}

// The mean gradient of one step at 32 bits, by parameter, from all ranks' shards.
ByName gradient_of(int ranks, const StepRunnerOptions& options) {
  const TokenSource tokens = test::tiny_tokens();
  ByName gradient;
  std::mutex adding;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, options);
    rank.step(0, 32, 32);
    const ParameterStore& store = rank.model().parameters();
    const std::vector<ShardValues> sums = rank.runner().gradients().own_sums();
    const auto scale =
        static_cast<float>(1.0 / static_cast<double>(options.train.batch_size / options.train.micro_batch_size));
    const std::lock_guard lock(adding);
    for (const ParameterInfo& info : store.infos()) {
      if (!info.trainable) continue;
      const auto group = static_cast<std::size_t>(info.group_index);
      const dist::FlatLayout& layout = store.groups()[group].layout;
      const auto& place = layout.tensors()[static_cast<std::size_t>(info.layout_index)];
      if (sums[group].empty()) continue;
      const dist::ShardRange shard = layout.shard(place.bucket, comm.rank(), comm.size());
      std::vector<float>& values = gradient[info.name];
      values.resize(static_cast<std::size_t>(info.elems));
      for (std::int64_t i = 0; i < info.elems; ++i) {
        const std::int64_t at = place.offset + i;
        if (at < shard.begin || at >= shard.end) continue;
        values[static_cast<std::size_t>(i)] =
            scale * sums[group][static_cast<std::size_t>(place.bucket)][static_cast<std::size_t>(at - shard.begin)];
      }
    }
  });
  return gradient;
}

// |a - b| / |b| over everything.
double distance(const ByName& a, const ByName& b) {
  double difference = 0.0, all = 0.0;
  EXPECT_EQ(a.size(), b.size());
  for (const auto& [name, values] : b)
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double mine = a.at(name).at(i);
      difference += (mine - values[i]) * (mine - values[i]);
      all += static_cast<double>(values[i]) * values[i];
    }
  return std::sqrt(difference / all);
}

TEST(WireRun, AnyLayoutHasTheGradientOfOneRank) {
  StepRunnerOptions options = test::tiny_options();
  options.train.batch_size = 24;
  options.train.micro_batch_size = 24;
  const ByName one = gradient_of(1, options);
  int layouts = 0;
  for (const int ranks : {1, 2, 3, 4, 6, 8})
    for (const std::int64_t micro_batch : {1, 2, 3, 4, 12}) {
      if (24 % (ranks * micro_batch) != 0) continue;
      options.train.micro_batch_size = micro_batch;
      EXPECT_LT(distance(gradient_of(ranks, options), one), 1e-6) << ranks << " ranks, " << micro_batch;
      ++layouts;
    }
  EXPECT_GE(layouts, 12);
}

TEST(WireRun, CodesComeAsNearAsTheirWidthAllows) {
  const ByName exact = gradient_of(4, test::tiny_options());
  EXPECT_LT(distance(gradient_of(4, coded(WireFormatName::kBf16)), exact), 0.005);
  EXPECT_LT(distance(gradient_of(4, coded(WireFormatName::kInt8)), exact), 0.03);
  EXPECT_LT(distance(gradient_of(4, coded(WireFormatName::kInt8, WireSumName::kTwoPhase)), exact), 0.03);
  const ByName int4 = gradient_of(4, coded(WireFormatName::kInt4));
  EXPECT_LT(distance(int4, exact), 0.3);
  EXPECT_GT(distance(int4, exact), 0.01);
  for (const auto& [name, values] : exact)
    if (name.ends_with(".bias")) EXPECT_EQ(int4.at(name), values) << name << " never travels as codes";
}

// Losses and final parameters of some steps.
std::pair<std::vector<double>, std::vector<float>> curve(int ranks, const StepRunnerOptions& options) {
  const TokenSource tokens = test::tiny_tokens();
  std::vector<double> losses;
  std::vector<float> parameters;
  dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, options);
    for (std::uint64_t step = 0; step < 5; ++step) {
      const StepOutcome outcome = rank.step(step, step % 2 == 0 ? 8 : 4, 8);
      if (comm.rank() == 0) losses.push_back(outcome.loss);
    }
    const std::vector<float> all = rank.parameters();
    if (comm.rank() == 0) parameters = all;
  });
  return {losses, parameters};
}

TEST(WireRun, TwoLevelsTrainToTheBitsOfOne) {
  for (const WireFormatName wire : {WireFormatName::kFp32, WireFormatName::kInt8, WireFormatName::kInt4}) {
    StepRunnerOptions options = coded(wire);
    const auto one = curve(8, options);
    for (const int places : {2, 4}) {
      options.places = places;
      EXPECT_EQ(curve(8, options), one) << enum_name(wire) << ", nodes of " << places;
    }
  }
}

TEST(WireRun, CodesLearnAsFp32Does) {
  const double exact = curve(4, test::tiny_options()).first.back();
  EXPECT_NEAR(curve(4, coded(WireFormatName::kInt8)).first.back(), exact, 0.02);
  EXPECT_NEAR(curve(4, coded(WireFormatName::kInt4)).first.back(), exact, 0.2);
}

TEST(WireRun, AStepThatIsSkippedLeavesWhatWasKept) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, coded(WireFormatName::kInt4));
    const auto kept = [&] {
      std::vector<float> all;
      for (dist::ErrorFeedback& group : rank.runner().gradients().feedback()) {
        const std::span<float> residual = group.residual(0);
        all.insert(all.end(), residual.begin(), residual.end());
      }
      return all;
    };
    rank.step(0, 8, 8);
    const std::vector<float> before = kept();
    EXPECT_GT(std::count_if(before.begin(), before.end(), [](float value) { return value != 0.0F; }), 100);
    rank.runner().set_loss_hook([](std::int64_t, double) { return std::numeric_limits<double>::quiet_NaN(); });
    EXPECT_TRUE(rank.step(1, 8, 8).skipped);
    EXPECT_EQ(kept(), before);
    rank.runner().set_loss_hook({});
    EXPECT_FALSE(rank.step(2, 8, 8).skipped);
    EXPECT_NE(kept(), before);
  });
}

TEST(WireRun, ReportsWhatTravelled) {
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank plain(spec, tokens, comm, test::tiny_options()), narrow(spec, tokens, comm, coded(WireFormatName::kInt8));
    const WireReport fp32 = plain.step(0, 8, 8).wire, int8 = narrow.step(0, 8, 8).wire;
    EXPECT_GT(fp32.sent_bytes, 0);
    EXPECT_EQ(fp32.sent_bytes, fp32.fp32_bytes);
    EXPECT_EQ(int8.fp32_bytes, fp32.fp32_bytes);
    EXPECT_LT(int8.sent_bytes, fp32.sent_bytes);
    EXPECT_GT(int8.seconds, 0.0);
    EXPECT_EQ(int8.early_buckets, 0) << "on CPUs nothing goes early";
  });
}

TEST(WireRun, AnExchangeThatIsMeasuredDoesNotGoEarly) {
  const TokenSource tokens = test::tiny_tokens();
  StepRunnerOptions options = coded(WireFormatName::kInt4);
  options.early = true;
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, options);
    rank.runner().gradients().measure_next();
    const StepOutcome measured = rank.step(0, 8, 8), usual = rank.step(1, 8, 8);
    ASSERT_TRUE(measured.wire_error.has_value());
    EXPECT_GT(*measured.wire_error, 0.001);
    EXPECT_EQ(measured.wire.early_buckets, 0);
    EXPECT_FALSE(usual.wire_error.has_value());
    EXPECT_GT(usual.wire.early_buckets, 0);
  });
}

TEST(WireRun, NodesAreNeighboursInEqualNumbers) {
  std::string why;
  EXPECT_EQ(places_of(std::vector<std::string>{"a", "a", "b", "b"}, why), 2);
  EXPECT_EQ(places_of(std::vector<std::string>{"a", "a"}, why), 0);
  EXPECT_EQ(places_of({}, why), 0);
  EXPECT_EQ(why, "");
  EXPECT_EQ(places_of(std::vector<std::string>{"a", "b", "b"}, why), 0);
  EXPECT_THAT(why, ::testing::HasSubstr("b has 2"));
  why.clear();
  EXPECT_EQ(places_of(std::vector<std::string>{"a", "b", "a", "b"}, why), 0);
  EXPECT_THAT(why, ::testing::HasSubstr("not neighbours"));
}

class WireCheckpoint : public test::TrainerTest {
 protected:
  // By parameter, the sum over the ranks of what they keep; and of each rank, everything in order.
  struct Kept {
    ByName sum;
    std::vector<std::vector<float>> by_rank;
  };
  static void add(TinyRank& rank, dist::Communicator& comm, std::mutex& adding, Kept& kept) {
    const std::lock_guard lock(adding);
    kept.by_rank.resize(static_cast<std::size_t>(comm.size()));
    const std::string prefix = "/sync/feedback/" + std::to_string(comm.rank()) + "/";
    for (const TensorPiece& piece :
         feedback_to_save(rank.model().parameters(), rank.runner().gradients(), comm.rank())) {
      EXPECT_TRUE(piece.name.starts_with(prefix)) << piece.name;
      const std::span<const float> values(static_cast<const float*>(piece.values.data),
                                          static_cast<std::size_t>(piece.values.elems));
      std::vector<float>& sum = kept.sum[piece.name.substr(prefix.size())];
      sum.resize(values.size());
      for (std::size_t i = 0; i < values.size(); ++i) sum[i] += values[i];
      std::vector<float>& own = kept.by_rank[static_cast<std::size_t>(comm.rank())];
      own.insert(own.end(), values.begin(), values.end());
    }
  }
  // `ranks` ranks that take up `from` (empty: after two steps), and save `step`.
  Kept save(int ranks, const fs::path& from, std::int64_t step) {
    Kept kept;
    std::mutex adding;
    const TokenSource tokens = test::tiny_tokens();
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      TinyModel spec;
      StepRunnerOptions options = coded(WireFormatName::kInt4);
      options.train.batch_size = 24;
      options.train.micro_batch_size = 1;
      TinyRank rank(spec, tokens, comm, options);
      if (from.empty()) {
        for (std::uint64_t i = 0; i < 2; ++i) rank.step(i, 8, 8);
      } else {
        std::optional<CheckpointReader> reader;
        if (comm.rank() == 0) reader.emplace(CheckpointReader::open(from));
        EXPECT_TRUE(load_feedback(reader ? &*reader : nullptr, rank.model(), rank.runner().gradients(), comm));
      }
      add(rank, comm, adding, kept);
      save_run(root_, {.step = step, .config_json = "{}"}, rank.model(), rank.runner().optimizer(), comm, {},
               &rank.runner().gradients());
    });
    return kept;
  }
  fs::path folder(std::int64_t step) const { return root_ / step_folder_name(step); }
};

TEST_F(WireCheckpoint, WhatRanksKeepComesBackAndItsSumOnOtherNumbersOfRanks) {
  const Kept eight = save(8, {}, 1);
  EXPECT_EQ(save(8, folder(1), 2).by_rank, eight.by_rank) << "as many ranks: bit for bit";
  const Kept three = save(3, folder(1), 3);
  EXPECT_EQ(three.by_rank.size(), 3U);
  EXPECT_LT(distance(three.sum, eight.sum), 1e-6);
  const Kept again = save(8, folder(3), 4);
  EXPECT_LT(distance(again.sum, eight.sum), 1e-6);
  EXPECT_EQ(again.by_rank[0], three.by_rank[0]);
  EXPECT_EQ(std::count(again.by_rank[5].begin(), again.by_rank[5].end(), 0.0F),
            static_cast<std::ptrdiff_t>(again.by_rank[5].size()));
}

TEST_F(WireCheckpoint, ARunWithoutFeedbackSaysThatItDropsIt) {
  save(2, {}, 1);
  const TokenSource tokens = test::tiny_tokens();
  dist::run_local_ranks(2, [&](dist::Communicator& comm) {
    TinyModel spec;
    TinyRank rank(spec, tokens, comm, test::tiny_options());
    std::optional<CheckpointReader> reader;
    if (comm.rank() == 0) reader.emplace(CheckpointReader::open(folder(1)));
    EXPECT_FALSE(load_feedback(reader ? &*reader : nullptr, rank.model(), rank.runner().gradients(), comm));
  });
}

TEST_F(WireCheckpoint, AResumedRunIsTheUninterruptedOne) {
  for (const WireSumName sum : {WireSumName::kCodeSum, WireSumName::kTwoPhase}) {
    const std::string name(enum_name(sum));
    TrainerOptions whole = options(name + " whole", 6);
    whole.comm = {.wire = WireFormatName::kInt4, .sum = sum, .block = 64, .stochastic_rounding = true};
    whole.checkpoint.every = 3, whole.checkpoint.keep = 0;
    const End end = train(whole, 4);
    TrainerOptions rest = whole;
    rest.run.dir = (root_ / (name + " rest")).string();
    fs::create_directories(fs::path(rest.run.dir) / "checkpoints");
    fs::copy(fs::path(whole.run.dir) / "checkpoints/step_00000003",
             fs::path(rest.run.dir) / "checkpoints/step_00000003", fs::copy_options::recursive);
    const End resumed = train(rest, 4);
    EXPECT_EQ(resumed.state.step, 6);
    EXPECT_EQ(resumed.parameters, end.parameters) << name;
  }
}

TEST_F(WireCheckpoint, ASumTooFarFromFp32sEndsTheRun) {
  TrainerOptions strict = options("strict", 6);
  strict.comm = {.wire = WireFormatName::kInt4, .self_check = 0.01};
  try {
    train(strict, 2);
    ADD_FAILURE() << "the run went on";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kSelfCheck);
    EXPECT_THAT(error.what(), ::testing::HasSubstr("comm.self_check = 0.01"));
  }
  TrainerOptions usual = options("usual", 4);
  usual.comm = {.wire = WireFormatName::kInt4};
  EXPECT_TRUE(train(usual, 2).result.finished);
  EXPECT_THAT(read("usual", "report.md"),
              ::testing::HasSubstr("int4 codes in blocks of 256 (code_sum), error feedback"));
}

}  // namespace
}  // namespace qat

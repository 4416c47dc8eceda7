// Token files that change while they are in use, on one rank only: every part of a run that reads them ends on all
// ranks, with the same words.
#include <gmock/gmock.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>

#include "dist/comm/agree.h"
#include "src/eval/perplexity.h"
#include "src/eval/width_eval.h"
#include "src/train/calibrator.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using test::TinyModel;
using test::TinyRank;
using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::SizeIs;

// Two ranks as replicas or as stages, and which of them loses its tokens.
struct TwoRanks {
  int stages = 1;
  int loser = 1;
};

class LostTokens : public ::testing::Test {
 protected:
  void SetUp() override {
    at::set_num_threads(1);
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  // A rank's own copy of the tiny tokens.
  std::string write(int rank) const {
    const TokenSource tiny = test::tiny_tokens();
    std::vector<std::int32_t> ids(static_cast<std::size_t>(tiny.total_tokens()));
    tiny.copy(0, ids);
    TokenFileWriter writer((root_ / ("rank" + std::to_string(rank) + ".bin")).string());
    writer.append(std::vector<int>(ids.begin(), ids.end()));
    writer.complete();
    writer.publish();
    return writer.path();
  }

  // What `body` throws on each of them. It is given the rank's set-up, and what makes the loss.
  using Body = std::function<void(TinyRank&, const TokenSource&, const dist::Grid&, const std::function<void()>& lose)>;
  void expect_agreed_end(const QuantConfig& quant, int threads, const Body& body, const TwoRanks& ranks = {}) const {
    std::mutex mutex;
    std::vector<std::string> messages;
    dist::run_local_ranks(2, [&](dist::Communicator& comm) {
      const std::string file = write(comm.rank());
      TokenSource tokens;
      tokens.add_file(file);
      TinyModel spec;
      spec.quant = quant;
      StepRunnerOptions options = test::tiny_options();
      options.threads = threads;
      const auto place = dist::ProcessGrid::make(2, comm.rank(), 2 / ranks.stages, ranks.stages);
      const dist::GridGroups groups = dist::make_groups(place, comm);
      const dist::Grid grid = ranks.stages == 1 ? dist::Grid(comm) : dist::Grid(comm, groups);
      TinyRank rank(spec, tokens, grid, options);
      try {
        body(rank, tokens, grid, [&] {
          if (comm.rank() == ranks.loser) fs::resize_file(file, 1030);
        });
        ADD_FAILURE() << "rank " << comm.rank() << " goes on";
      } catch (const dist::AgreedError& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kData);
        const std::lock_guard lock(mutex);
        messages.emplace_back(error.what());
      }
    });
    const std::string loser = std::to_string(ranks.loser);
    EXPECT_THAT(messages,
                AllOf(SizeIs(2), Each(AllOf(HasSubstr("rank " + loser + " only: "), HasSubstr("rank" + loser + ".bin"),
                                            HasSubstr("changed while it was in use")))));
  }

  const fs::path root_ = fs::temp_directory_path() / ("qat lost tokens é " + std::to_string(getpid()));
};

TEST_F(LostTokens, EndAStepBeforeAnyParameterChanges) {
  const Body body = [](TinyRank& rank, const TokenSource&, const dist::Grid&, const auto& lose) {
    EXPECT_FALSE(rank.step(0, 8, 8).skipped);
    const std::vector<float> before = rank.parameters();
    lose();
    try {
      rank.step(1, 8, 8);
    } catch (...) {
      EXPECT_EQ(rank.parameters(), before);
      throw;
    }
  };
  for (const int threads : {1, 3}) expect_agreed_end({}, threads, body);
  for (const int loser : {0, 1}) expect_agreed_end({}, 1, body, {.stages = 2, .loser = loser});
}

TEST_F(LostTokens, EndCalibration) {
  QuantConfig quant;
  quant.activation = {.granularity = Granularity::kTensor, .range = RangeSource::kCalibrated};
  const Body body = [](TinyRank& rank, const TokenSource&, const dist::Grid& grid, const auto& lose) {
    lose();
    dist::StopPoll never(grid.world());
    const std::int64_t layer = rank.model().linears().front().spec().index;
    (void)calibrate(rank.model(), PrecisionMap::uniform(rank.model().config().linears(), 4, 4, 8), {layer},
                    rank.sampler(), grid, never,
                    {.seed = 1, .batches = 4, .micro_batch_size = 2, .sequence_length = 12});
  };
  expect_agreed_end(quant, 1, body);
  expect_agreed_end(quant, 1, body, {.stages = 2, .loser = 0});
}

TEST_F(LostTokens, EndAnEvaluation) {
  const Body body = [](TinyRank& rank, const TokenSource& tokens, const dist::Grid& grid, const auto& lose) {
    lose();
    const QuantConfig quant;
    dist::StopPoll never(grid.world());
    (void)score_widths(rank.model(), HeldOutText(tokens), {32}, quant, {.batch_size = 4}, 12,
                       /*threads=*/grid.stages() == 1 ? 2 : 1, grid, never);
  };
  expect_agreed_end({}, 1, body);
  for (const int loser : {0, 1}) expect_agreed_end({}, 1, body, {.stages = 2, .loser = loser});
}

}  // namespace
}  // namespace qat

// A save beside something else: when values may change, when ranks agree on what, and what a failure becomes.
#include "src/checkpoint/background_save.h"

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/src/checkpoint/sharded_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using testing::checkpoint_error;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::leftovers;
using testing::Spread;
using testing::steps_of;

class Background : public testing::ScratchFolder {};

// Opened from outside.
class Gate {
 public:
  void open() { open_ = true; }
  void pass(SaveProgress* progress = nullptr) const {
    while (!open_) {
      if (progress != nullptr) progress->beat();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }

 private:
  std::atomic<bool> open_{false};
};

// A writer that does as it is told, and notes what is called.
struct Script {
  Gate read, written, committed;
  std::string write_fails, commit_fails;
  std::atomic<int> rank_commits{0};
};
class ScriptedSave final : public SaveWork {
 public:
  ScriptedSave(Script& script, dist::Communicator& comm) : script_(script), comm_(comm) {}
  void write(SaveProgress& progress) noexcept override {
    try {
      script_.read.pass(&progress);
      progress.values_read();
      script_.written.pass(&progress);
      failure_ = script_.write_fails;
    } catch (const Error& error) {
      failure_ = error.what();
    }
  }
  void collect() override { agree(); }
  bool commit(SaveProgress& progress) noexcept override {
    try {
      script_.committed.pass(&progress);
      failure_ = script_.commit_fails;
      ++script_.rank_commits;
    } catch (const Error& error) {
      failure_ = error.what();
    }
    return failure_.empty();
  }
  fs::path conclude() override {
    agree();
    return "done";
  }

 private:
  void agree() {
    dist::on_every_rank(comm_, "checkpoint", [this] {
      if (!failure_.empty()) throw Error(ErrorKind::kCheckpoint, failure_);
    });
  }

  Script& script_;
  dist::Communicator& comm_;
  std::string failure_;
};

bool ends_within_a_second(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000 && !condition(); ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  return condition();
}

TEST_F(Background, WhoChangesTheValuesWaitsForTheReadingAndForNothingElse) {
  Script script;
  const auto comm = dist::make_single_comm();
  BackgroundSave save(std::make_unique<ScriptedSave>(script, *comm), *comm);
  EXPECT_FALSE(save.has_read());
  EXPECT_FALSE(save.advance());
  std::atomic<bool> passed{false};
  std::thread update([&] {
    save.wait_until_read();
    passed = true;
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(30));
  EXPECT_FALSE(passed);
  script.read.open();
  update.join();
  EXPECT_TRUE(passed);
  EXPECT_FALSE(save.advance());  // the files are not on the disk yet
  EXPECT_EQ(script.rank_commits, 0);
  script.written.open(), script.committed.open();
  EXPECT_TRUE(ends_within_a_second([&] { return save.advance(); }));
  EXPECT_EQ(script.rank_commits, 1);
  EXPECT_EQ(save.finish(), "done");
}

// One rank writes longer than the others: nobody has ended before it has, and all see that at the same question.
TEST_F(Background, AllRanksComeToTheEndAtTheSameQuestion) {
  Script slow, quick;
  for (Script* script : {&slow, &quick}) script->read.open(), script->committed.open();
  quick.written.open();
  constexpr int kRanks = 3, kSlowUntil = 40;
  std::vector<int> asked(kRanks);
  dist::run_local_ranks(kRanks, [&](dist::Communicator& comm) {
    BackgroundSave save(std::make_unique<ScriptedSave>(comm.rank() == 1 ? slow : quick, comm), comm);
    int& questions = asked[static_cast<std::size_t>(comm.rank())];
    for (bool over = false; !over; ++questions) {
      if (questions == kSlowUntil && comm.rank() == 1) slow.written.open();
      EXPECT_TRUE(questions >= kSlowUntil || quick.rank_commits == 0) << "committed before a rank had written";
      over = save.advance();
    }
    EXPECT_EQ(save.finish(), "done");
  });
  EXPECT_GT(asked[0], kSlowUntil);
  EXPECT_EQ(asked[0], asked[1]);
  EXPECT_EQ(asked[0], asked[2]);
}

TEST_F(Background, AFailureOfOneRankIsThrownByAllAtTheSameQuestion) {
  for (const bool in_commit : {false, true}) {
    Script failing, fine;
    for (Script* script : {&failing, &fine}) script->read.open(), script->written.open(), script->committed.open();
    (in_commit ? failing.commit_fails : failing.write_fails) = "no space";
    std::vector<int> asked(3), agreed(3);
    dist::run_local_ranks(3, [&](dist::Communicator& comm) {
      BackgroundSave save(std::make_unique<ScriptedSave>(comm.rank() == 2 ? failing : fine, comm), comm);
      const auto rank = static_cast<std::size_t>(comm.rank());
      try {
        while (!save.advance()) ++asked[rank];
        save.finish();
      } catch (const dist::AgreedError& error) {
        EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
        EXPECT_THAT(error.what(), HasSubstr("rank 2 only: no space"));
        agreed[rank] = 1;
      }
    });
    EXPECT_THAT(agreed, ::testing::Each(1));
    EXPECT_THAT(asked, ::testing::Each(asked[0]));
    EXPECT_EQ(fine.rank_commits, in_commit ? 2 : 0);
  }
}

TEST_F(Background, FinishWaitsForAllParts) {
  Script script;
  const auto comm = dist::make_single_comm();
  BackgroundSave save(std::make_unique<ScriptedSave>(script, *comm), *comm);
  std::thread opener([&] {
    for (Gate* gate : {&script.read, &script.written, &script.committed}) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      gate->open();
    }
  });
  EXPECT_EQ(save.finish(), "done");
  EXPECT_EQ(script.rank_commits, 1);
  opener.join();
}

TEST_F(Background, ASaveThatIsGivenUpStopsAtItsNextBlock) {
  const auto comm = dist::make_single_comm();
  Script endless;  // none of its gates ever opens
  { const BackgroundSave save(std::make_unique<ScriptedSave>(endless, *comm), *comm); }
  Script in_commit;
  in_commit.read.open(), in_commit.written.open();
  {
    BackgroundSave save(std::make_unique<ScriptedSave>(in_commit, *comm), *comm);
    save.wait_until_read();
    for (int i = 0; i < 10; ++i, std::this_thread::sleep_for(std::chrono::milliseconds(2))) save.advance();
  }
  EXPECT_EQ(in_commit.rank_commits, 0);
  // The same with real files, which go too.
  const std::vector<float> values(30'000'000, 1.0F);
  {
    const TensorPiece piece{"/model/w", {30'000'000}, 0, testing::content(values)};
    auto work = std::make_unique<ShardedSave>(
        root_, 1, std::vector{piece}, [](CheckpointWriter&) {}, *comm);
    const BackgroundSave save(std::move(work), *comm);
  }
  EXPECT_THAT(leftovers(root_), IsEmpty());
  EXPECT_THAT(list_checkpoints(root_), IsEmpty());
}

// Values that change as soon as they may: the files are those of a save that nothing ran beside.
TEST_F(Background, TheFilesAreTheSameBytesAsThoseOfASaveThatNothingRunsBeside) {
  const Spread spread({{"/model/large", {1500, 1000}}, {"/optimizer/exp_avg/large", {1500, 1000}}}, /*buckets=*/2);
  constexpr int kRanks = 3;
  const fs::path alone = testing::save_spread(root_ / "alone", 1, spread, kRanks);
  std::vector<float> flat = spread.values();
  std::atomic<int> changed{0};
  fs::path beside;
  dist::run_local_ranks(kRanks, [&](dist::Communicator& comm) {
    const auto rest = [](CheckpointWriter& writer) { writer.set_attribute("/state", "ranks", std::int64_t{kRanks}); };
    BackgroundSave save(
        std::make_unique<ShardedSave>(root_ / "beside", 1, spread.pieces(comm.rank(), kRanks, flat), rest, comm), comm);
    save.wait_until_read();
    spread.for_each(comm.rank(), kRanks, [&](const auto& tensor, std::int64_t first, std::int64_t elems) {
      std::fill_n(flat.begin() + tensor.offset + first, elems, -1.0F);
      ++changed;
    });
    while (!save.advance()) comm.barrier();
    const fs::path folder = save.finish();
    if (comm.rank() == 0) beside = folder;
  });
  EXPECT_GT(changed, kRanks);
  EXPECT_TRUE(testing::load_spread(beside, spread, 2) == spread.values());
  for (int rank = 0; rank < kRanks; ++rank)
    EXPECT_TRUE(testing::read_bytes(beside / shard_file_name(rank)) ==
                testing::read_bytes(alone / shard_file_name(rank)))
        << rank;
}

}  // namespace
}  // namespace qat

#include "src/checkpoint/catalog.h"

#include "src/checkpoint/durable_file.h"
#include "src/checkpoint/manifest.h"
#include "src/checkpoint/retention.h"
#include "tests/src/checkpoint/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using testing::checkpoint_error;
using ::testing::ElementsAre;
using testing::expect_small;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::leftovers;
using testing::save_small;
using testing::steps_of;
using testing::write_bytes;

class Catalog : public testing::ScratchFolder {
 protected:
  void flip_a_byte(const fs::path& folder) {
    const fs::path file = folder / kCheckpointFileName;
    testing::flip_bit(file, fs::file_size(file) / 2, /*bit=*/0);
  }
  std::vector<std::string> warnings_;
  std::function<void(const std::string&)> warn_ = [this](const std::string& text) { warnings_.push_back(text); };
};

TEST_F(Catalog, ListsCompleteCheckpointsByStepAndNothingElse) {
  for (const std::int64_t step : {std::int64_t{1000}, std::int64_t{9}, std::int64_t{123'456'789'012}}) {
    save_small(root_, step, step);
  }
  fs::create_directories(root_ / "step_00000077");  // no manifest
  fs::create_directories(root_ / "step_9");         // not our spelling
  fs::create_directories(root_ / "step_-0000001");  //
  fs::create_directories(root_ / "notes");
  fs::copy(root_ / "step_00000009", root_ / ".tmp-step_00000010-1");
  fs::copy(root_ / "step_00000009", root_ / "step_00000012");  // a manifest of another step
  write_bytes(root_ / "step_00000011", "a file");
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(9, 1000, 123'456'789'012));
  const CheckpointScan scan = scan_checkpoints(root_);
  ASSERT_EQ(scan.broken.size(), 2U);
  EXPECT_THAT(scan.broken[0].reason, HasSubstr("is of step 9"));
  EXPECT_THAT(scan.broken[1].reason, HasSubstr("no manifest.json"));
  EXPECT_THAT(list_checkpoints(root_ / "absent"), IsEmpty());
}

TEST_F(Catalog, SweepingDropsLeftoversAndKeepsTheRest) {
  save_small(root_, 5, 5);
  for (const char* name : {".tmp-step_00000006-12", ".trash-step_00000001-12"}) {
    fs::create_directories(root_ / name);
    write_bytes(root_ / name / "checkpoint.h5", "half");
  }
  fs::copy(root_ / "step_00000005", root_ / ".old-step_00000005-12");
  fs::create_directories(root_ / ".git");
  EXPECT_EQ(sweep_leftovers(root_).swept.size(), 3U);
  EXPECT_THAT(leftovers(root_), ElementsAre(".git"));
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(5));
  EXPECT_THAT(sweep_leftovers(root_).swept, IsEmpty());
  EXPECT_THAT(sweep_leftovers(root_ / "absent").swept, IsEmpty());
}

// Killed between the two renames of a replacement on a file system that cannot exchange two names.
TEST_F(Catalog, SweepingPutsACheckpointBackWhoseSuccessorNeverTookItsPlace) {
  save_small(root_, 5, 55);
  fs::rename(root_ / "step_00000005", root_ / ".old-step_00000005-12");
  fs::create_directories(root_ / ".tmp-step_00000005-12");
  EXPECT_EQ(sweep_leftovers(root_).swept.size(), 2U);
  EXPECT_THAT(leftovers(root_), IsEmpty());
  expect_small(CheckpointReader::open(root_ / "step_00000005"), 55);
}

TEST_F(Catalog, SweepingPutsACheckpointBackOverABrokenOne) {
  save_small(root_, 5, 55);
  fs::rename(root_ / "step_00000005", root_ / ".old-step_00000005-12");
  fs::create_directories(root_ / "step_00000005");
  sweep_leftovers(root_);
  EXPECT_THAT(leftovers(root_), IsEmpty());
  expect_small(CheckpointReader::open(root_ / "step_00000005"), 55);
}

TEST_F(Catalog, APathMeansACheckpointARunFolderOrARoot) {
  const fs::path root = root_ / "run" / "checkpoints";
  save_small(root, 1, 1);
  save_small(root, 2, 2);
  const auto folder_of = [&](const fs::path& path) { return open_checkpoint(path, warn_).info().folder; };
  EXPECT_EQ(folder_of(root / "step_00000001"), root / "step_00000001");
  EXPECT_EQ(folder_of(root), root / "step_00000002");
  EXPECT_EQ(folder_of(root_ / "run"), root / "step_00000002");
  fs::rename(root / "step_00000002", root_ / "best");
  expect_small(open_checkpoint(root_ / "best", warn_), 2);
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(Catalog, APathWithoutACheckpointSaysWhatWasExpected) {
  EXPECT_THAT(checkpoint_error([&] { (void)open_checkpoint(root_ / "nothing", warn_); }),
              AllOf(HasSubstr((root_ / "nothing").string()), HasSubstr("no such folder")));
  EXPECT_THAT(checkpoint_error([&] { (void)open_checkpoint(root_, warn_); }), HasSubstr("no checkpoint there"));
  fs::create_directories(root_ / "step_00000003");
  EXPECT_THAT(checkpoint_error([&] { (void)open_checkpoint(root_, warn_); }),
              AllOf(HasSubstr("none of the 1"), HasSubstr("step_00000003: no manifest.json")));
}

TEST_F(Catalog, ANamedCheckpointIsThatOneOrAnErrorThatNamesOnlySoundOnes) {
  for (const std::int64_t step : {1, 2, 3, 4}) save_small(root_, step, step);
  flip_a_byte(root_ / "step_00000004");
  flip_a_byte(root_ / "step_00000002");
  EXPECT_THAT(checkpoint_error([&] { (void)open_checkpoint(root_ / "step_00000004", warn_); }),
              AllOf(HasSubstr("step_00000004"), HasSubstr("XXH3"),
                    ::testing::EndsWith("to take instead: step_00000003 step_00000001")));
  EXPECT_THAT(warnings_, IsEmpty());
  flip_a_byte(root_ / "step_00000003");
  flip_a_byte(root_ / "step_00000001");
  EXPECT_THAT(checkpoint_error([&] { (void)open_checkpoint(root_ / "step_00000004", warn_); }),
              HasSubstr("no other complete checkpoint lies beside it"));
}

TEST_F(Catalog, ADamagedNewestIsPassedOverWithAWarning) {
  for (const std::int64_t step : {1, 2, 3, 4}) save_small(root_ / "checkpoints", step, step);
  flip_a_byte(root_ / "checkpoints" / "step_00000003");
  const fs::path newest = root_ / "checkpoints" / "step_00000004" / kCheckpointFileName;
  fs::resize_file(newest, fs::file_size(newest) - 1);
  const auto reader = open_newest_valid(root_, warn_);
  ASSERT_TRUE(reader.has_value());
  expect_small(*reader, 2);
  ASSERT_EQ(warnings_.size(), 2U);
  EXPECT_THAT(warnings_[0], AllOf(HasSubstr("passing over step 4, taking step 2 in its place"),
                                  HasSubstr("step_00000004"), HasSubstr("bytes, found")));
  EXPECT_THAT(warnings_[1], AllOf(HasSubstr("passing over step 3, taking step 2 in its place"),
                                  HasSubstr("step_00000003"), HasSubstr("damaged: XXH3 expected")));
}

TEST_F(Catalog, ADamagedNewestIsAnErrorWhenStrict) {
  save_small(root_, 1, 1);
  save_small(root_, 2, 2);
  flip_a_byte(root_ / "step_00000002");
  const std::string message = checkpoint_error([&] { (void)open_newest_valid(root_, warn_, {.strict = true}); });
  EXPECT_THAT(message, AllOf(HasSubstr("step_00000002"), HasSubstr("XXH3"), HasSubstr("instead: step_00000001")));
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(Catalog, NoCheckpointIsNothingButOnlyDamagedOnesAreAnError) {
  EXPECT_FALSE(open_newest_valid(root_, warn_).has_value());
  EXPECT_FALSE(open_newest_valid(root_ / "absent", warn_).has_value());
  save_small(root_, 1, 1);
  flip_a_byte(root_ / "step_00000001");
  EXPECT_THAT(checkpoint_error([&] { (void)open_newest_valid(root_, warn_); }),
              AllOf(HasSubstr("none of the 1"), HasSubstr("step_00000001")));
}

TEST_F(Catalog, RetentionKeepsTheNewestAndTheOneJustWritten) {
  for (const std::int64_t step : {1, 2, 3, 4, 5}) save_small(root_, step, step);
  fs::create_directories(root_ / "step_00000006");  // incomplete: neither counted nor touched
  EXPECT_THAT(apply_retention(root_, 0, {5}).removed, IsEmpty());
  EXPECT_THAT(steps_of(apply_retention(root_, 3, {5}).removed), ElementsAre(1, 2));
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(3, 4, 5));
  EXPECT_THAT(steps_of(apply_retention(root_, 1, {3}).removed), ElementsAre(4));
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(3, 5));
  EXPECT_THAT(leftovers(root_), IsEmpty());
  EXPECT_TRUE(fs::exists(root_ / "step_00000006"));
}

TEST_F(Catalog, RetentionSelectsPurely) {
  const std::vector<CheckpointInfo> three = {{"a", 1, 0}, {"b", 2, 0}, {"c", 3, 0}};
  EXPECT_THAT(steps_of(select_expired(three, 2, {3})), ElementsAre(1));
  EXPECT_THAT(steps_of(select_expired(three, 2, {1})), IsEmpty());
  EXPECT_THAT(steps_of(select_expired(three, 1, {-1, 1, 9})), ElementsAre(2));
  EXPECT_THAT(steps_of(select_expired(three, 3, {3})), IsEmpty());
  EXPECT_THAT(steps_of(select_expired(three, 7, {3})), IsEmpty());
  EXPECT_THAT(steps_of(select_expired({}, 1, {3})), IsEmpty());
}

TEST_F(Catalog, TheHashIsXxh3OfTheWholeFile) {
  write_bytes(root_ / "empty", "");
  EXPECT_EQ(hash_file(root_ / "empty"), 0x2D06800538D394C2ULL);  // xxHash: XXH3_64bits of nothing, seed 0
  const std::string large(9'000'001, 'q');                       // several reads
  write_bytes(root_ / "large", large);
  const std::uint64_t whole = hash_file(root_ / "large");
  write_bytes(root_ / "large", large + "q");
  EXPECT_NE(hash_file(root_ / "large"), whole);
}

}  // namespace
}  // namespace qat

#include "src/checkpoint/aside.h"

#include "src/checkpoint/durable_file.h"
#include "src/checkpoint/retention.h"
#include "tests/src/checkpoint/checkpoint_fixture.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using testing::expect_small;
using ::testing::IsEmpty;
using testing::leftovers;
using testing::save_small;
using testing::steps_of;

using Aside = testing::ScratchFolder;

TEST_F(Aside, MovesLaterStepsAndKeepsThemWhole) {
  for (const std::int64_t step : {4, 8, 12, 16}) save_small(root_, step, step);
  fs::create_directories(root_ / "step_00000020");  // broken, and later
  EXPECT_THAT(move_aside(root_, kAbandonedFolder, 9),
              ElementsAre(root_ / "abandoned/step_00000012", root_ / "abandoned/step_00000016",
                          root_ / "abandoned/step_00000020"));
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(4, 8));
  EXPECT_THAT(scan_checkpoints(root_).broken, IsEmpty());
  expect_small(CheckpointReader::open(root_ / "abandoned/step_00000016"), 16);
  EXPECT_THAT(leftovers(root_), IsEmpty());
}

TEST_F(Aside, AStepThatIsThereAlreadyKeepsItsName) {
  for (const std::int64_t value : {1, 2, 3}) {
    save_small(root_, 5, value);
    move_aside(root_, kDivergedFolder, 0);
  }
  expect_small(CheckpointReader::open(root_ / "diverged/step_00000005"), 1);
  expect_small(CheckpointReader::open(root_ / "diverged/step_00000005.2"), 2);
  expect_small(CheckpointReader::open(root_ / "diverged/step_00000005.3"), 3);
}

TEST_F(Aside, WhatAKilledMoveLeftIsFinished) {
  for (const std::int64_t step : {4, 8, 12, 16}) save_small(root_, step, step);
  // As if killed after the first of two moves.
  write_file_durably(root_ / ".aside-abandoned-9", "");
  fs::create_directories(root_ / "abandoned");
  fs::rename(root_ / "step_00000012", root_ / "abandoned/step_00000012");
  EXPECT_THAT(finish_moving_aside(root_), ElementsAre(root_ / "abandoned/step_00000016"));
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(4, 8));
  EXPECT_THAT(leftovers(root_), IsEmpty());
  EXPECT_THAT(finish_moving_aside(root_), IsEmpty());
}

TEST_F(Aside, NothingToMoveIsNothingMade) {
  save_small(root_, 4, 4);
  EXPECT_THAT(move_aside(root_, kAbandonedFolder, 5), IsEmpty());
  EXPECT_FALSE(fs::exists(root_ / "abandoned"));
  EXPECT_THAT(move_aside(root_ / "absent", kAbandonedFolder, 0), IsEmpty());
}

TEST_F(Aside, ALinkLeadsToACheckpointAndMoves) {
  for (const std::int64_t step : {4, 8}) save_small(root_, step, step);
  link_checkpoint(root_, "best", 4);
  expect_small(CheckpointReader::open(root_ / "best"), 4);
  link_checkpoint(root_, "best", 8);
  expect_small(open_checkpoint(root_ / "best", [](const std::string& text) { ADD_FAILURE() << text; }), 8);
  EXPECT_THAT(steps_of(list_checkpoints(root_)), ElementsAre(4, 8));
  EXPECT_THAT(leftovers(root_), IsEmpty());
}

}  // namespace
}  // namespace qat

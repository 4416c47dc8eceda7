#include <gtest/gtest.h>

#include "dist/watch/limits.h"

namespace qat::dist {
namespace {

TEST(RunClock, CountsTimeButNotSuspensions) {
  RunClock clock(/*longest=*/1.0);
  EXPECT_EQ(clock.tick(100.0), 0.0);
  EXPECT_EQ(clock.tick(100.5), 0.5);
  EXPECT_EQ(clock.tick(4000.5), 1.5) << "an hour of suspension is one tick";
  EXPECT_EQ(clock.tick(4001.0), 2.0);
  EXPECT_EQ(clock.tick(4000.0), 2.0) << "never back";
}

BoardView at_beat(std::uint64_t beats, Section section, std::uint64_t completed = 0) {
  BoardView view{.section = section, .beats = beats};
  view.completed[static_cast<std::size_t>(section)] = completed;
  return view;
}

TEST(GapMeter, MeasuresFromTheLastBeat) {
  GapMeter meter;
  meter.observe(at_beat(1, Section::kStep), 2.0);
  EXPECT_EQ(meter.stalled(2.0), 0.0);
  meter.observe(at_beat(1, Section::kStep), 9.0);
  EXPECT_EQ(meter.stalled(9.0), 7.0);
  meter.observe(at_beat(2, Section::kStep), 10.0);
  EXPECT_EQ(meter.stalled(10.0), 0.0);
}

TEST(GapMeter, GivesAGapToTheSectionInWhichItBegan) {
  GapMeter meter;
  meter.observe(at_beat(1, Section::kSave), 1.0);
  meter.observe(at_beat(2, Section::kStep, 5), 9.0);
  meter.observe(at_beat(3, Section::kStep, 6), 12.0);
  meter.observe(at_beat(4, Section::kStep, 7), 13.0);
  const SectionHistory& history = meter.history();
  EXPECT_EQ(history.longest_gap[static_cast<std::size_t>(Section::kSave)], 8.0);
  EXPECT_EQ(history.longest_gap[static_cast<std::size_t>(Section::kStep)], 3.0);
  EXPECT_EQ(history.completed[static_cast<std::size_t>(Section::kStep)], 7U);
}

SectionHistory history_of_steps(double gap, std::uint64_t completed) {
  SectionHistory history;
  history.longest_gap[static_cast<std::size_t>(Section::kStep)] = gap;
  history.completed[static_cast<std::size_t>(Section::kStep)] = completed;
  return history;
}

TEST(Limit, IsTheCeilingUntilTheSectionIsKnown) {
  const LimitRule rule;
  EXPECT_EQ(limit_of(rule, history_of_steps(0.1, 2), Section::kStep), 600.0);
  EXPECT_EQ(limit_of(rule, history_of_steps(0.1, 3), Section::kStep), 30.0);
  EXPECT_EQ(limit_of(rule, history_of_steps(0.1, 3), Section::kSave), 600.0) << "each section for itself";
}

TEST(Limit, IsTenTimesTheLongestGapBetweenFloorAndCeiling) {
  const LimitRule rule;
  EXPECT_EQ(limit_of(rule, history_of_steps(7.0, 9), Section::kStep), 70.0);
  EXPECT_EQ(limit_of(rule, history_of_steps(70.0, 9), Section::kStep), 600.0);
  EXPECT_EQ(limit_of({.ceiling = 3.0}, history_of_steps(7.0, 9), Section::kStep), 3.0) << "the ceiling beats the floor";
}

TEST(Limit, OfSeveralRanksTakesTheLongestGapAndTheLeastExperience) {
  const SectionHistory both = joined(history_of_steps(5.0, 2), history_of_steps(1.0, 9));
  EXPECT_EQ(limit_of({}, both, Section::kStep), 600.0);
  const SectionHistory later = joined(history_of_steps(5.0, 3), history_of_steps(1.0, 9));
  EXPECT_EQ(limit_of({}, later, Section::kStep), 50.0);
}

TEST(ProgressBoard, ShowsSectionsWaitsStepsAndCheckpoint) {
  ProgressBoard board;
  EXPECT_EQ(board.read().section, Section::kSetUp);
  board.enter(Section::kStep);
  {
    const SectionMark save(&board, Section::kSave);
    EXPECT_EQ(board.read().section, Section::kSave);
    {
      const WaitMark outer(&board, WaitFor::kAllReduce);
      const WaitMark inner(&board, WaitFor::kAllGather);
      EXPECT_EQ(board.read().waits_for, WaitFor::kAllGather);
    }
    EXPECT_EQ(board.read().waits_for, WaitFor::kNothing);
  }
  EXPECT_EQ(board.read().section, Section::kStep) << "the outer section goes on";
  const BoardView view = board.read();
  EXPECT_EQ(view.completed[static_cast<std::size_t>(Section::kSetUp)], 1U);
  EXPECT_EQ(view.completed[static_cast<std::size_t>(Section::kSave)], 1U);
  EXPECT_EQ(view.completed[static_cast<std::size_t>(Section::kStep)], 0U);
  EXPECT_EQ(view.beats, 7U) << "each mark beats at its birth and its death";
  board.set_steps(12);
  board.set_checkpoint("a");
  board.set_checkpoint("b");
  EXPECT_EQ(board.read().steps, 12);
  EXPECT_EQ(board.checkpoint(), "b");
}

TEST(ProgressBoard, MarksWithoutABoardDoNothing) {
  const SectionMark section(nullptr, Section::kSave);
  const WaitMark wait(nullptr, WaitFor::kDevice);
}

}  // namespace
}  // namespace qat::dist

#include "src/report/failure_text.h"

#include <gtest/gtest.h>

namespace qat {
namespace {

TEST(FailureText, SaysWhatWhereHowFarAndWhatNext) {
  const FailureReport report{.exit_code = 8,
                             .what = "10 steps in a row were not finite\nthe first was step 412",
                             .rank = 3,
                             .host = "node7",
                             .last_step = 421,
                             .checkpoint = "runs/a/checkpoints/step_000400",
                             .next_command = "qat_dist --config cpt.json --set lr.peak=3e-4",
                             .log_file = "runs/a/logs/rank_003.log"};
  EXPECT_EQ(to_text(report),
            "qat_dist stopped (exit 8, diverged)\n"
            "  what:       10 steps in a row were not finite\n"
            "              the first was step 412\n"
            "  where:      rank 3 on node7\n"
            "  last step:  421\n"
            "  checkpoint: runs/a/checkpoints/step_000400\n"
            "  next:       qat_dist --config cpt.json --set lr.peak=3e-4\n"
            "  details:    runs/a/logs/rank_003.log\n");
}

TEST(FailureText, SaysWhatAHangingRankAndTheOthersDid) {
  const std::string text = to_text({.exit_code = 7,
                                    .what = "rank 2 gives no sign of life",
                                    .rank = 2,
                                    .host = "node7",
                                    .pid = 4711,
                                    .doing = "step, for 31 s",
                                    .others = "ranks 0-1: step, in all_gather"});
  EXPECT_EQ(text,
            "qat_dist stopped (exit 7, watchdog: a rank hangs)\n"
            "  what:       rank 2 gives no sign of life\n"
            "  where:      rank 2 on node7, process 4711\n"
            "  doing:      step, for 31 s\n"
            "  others:     ranks 0-1: step, in all_gather\n"
            "  last step:  none completed\n"
            "  checkpoint: none\n");
}

TEST(FailureText, LeavesOutWhatThereIsNot) {
  const std::string text = to_text({.exit_code = 2, .what = "x", .host = "here"});
  EXPECT_EQ(text,
            "qat_dist stopped (exit 2, configuration or usage)\n"
            "  what:       x\n"
            "  where:      rank 0 on here\n"
            "  last step:  none completed\n"
            "  checkpoint: none\n");
}

// Evaluating, for example, completes no step and writes no checkpoint.
TEST(FailureText, OtherCommandsThanRunsHaveNoSteps) {
  EXPECT_EQ(to_text({.exit_code = 4, .what = "x", .host = "here", .of_run = false}),
            "qat_dist stopped (exit 4, checkpoint unreadable or mismatched)\n"
            "  what:       x\n"
            "  where:      rank 0 on here\n");
}

TEST(FailureText, EveryKindOfErrorHasItsMeaning) {
  for (const ErrorKind kind :
       {ErrorKind::kInternal, ErrorKind::kConfig, ErrorKind::kData, ErrorKind::kCheckpoint, ErrorKind::kOutOfMemory,
        ErrorKind::kCommunication, ErrorKind::kWatchdog, ErrorKind::kDiverged, ErrorKind::kSelfCheck}) {
    EXPECT_NE(exit_code_meaning(static_cast<int>(kind)), "unknown");
  }
  EXPECT_EQ(exit_code_meaning(75), "pre-empted: resume me");
  EXPECT_EQ(exit_code_meaning(42), "unknown");
}

}  // namespace
}  // namespace qat

#include "src/cost/stage_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "src/model/gpt2_config.h"

namespace qat {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

TEST(StageReport, EveryStageHasALineWithWhatItHoldsAndWhatThatTakes) {
  RunConfig config;
  apply_gpt2_preset("gpt2", config.model);
  config.lora.rank = 0;
  config.data.sequence_length = 1024;
  config.train.micro_batch_size = 2;
  config.train.batch_size = 32;
  config.parallel.pipeline = 2;
  const ModelTimes times = run_times(config, /*cuda=*/true, gpu_rates("NVIDIA H100"));
  const auto lines = describe_stages(config, {.cuda = true, .ranks = 2}, times, {0, 7});
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_THAT(lines[0], MatchesRegex("stage 0: blocks 0-6, embeddings; 89.0 M parameters; [45][0-9].[0-9] % of the "
                                     "time; [0-9.]+ GiB of memory; 2 passes in flight"));
  EXPECT_THAT(lines[1], HasSubstr("stage 1: blocks 7-11, head; 74.0 M parameters;"));
  EXPECT_THAT(lines[1], HasSubstr("; 1 pass in flight"));

  config.parallel.schedule = dist::PipelineSchedule::kInterleaved;
  config.parallel.chunks = 2;
  const auto chunks = describe_stages(config, {.cuda = false, .ranks = 1}, times, {0, 3, 6, 11});
  EXPECT_THAT(chunks[0], HasSubstr("stage 0: blocks 0-2 and 6-10, embeddings; 96.1 M parameters"));
  EXPECT_THAT(chunks[1], HasSubstr("stage 1: blocks 3-5 and 11, head;"));
}

}  // namespace
}  // namespace qat

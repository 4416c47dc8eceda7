#include "src/report/status_file.h"

#include <gtest/gtest.h>

#include "src/base/file.h"
#include "src/base/json.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

Value read_status(const std::filesystem::path& path) { return parse_json(read_file(path), path.string()); }

TEST(StatusFile, SaysWhereARunStandsAndHowToGoOn) {
  const ScratchFolder folder;
  const auto path = folder.path() / "status.json";
  ASSERT_TRUE(write_status(path, {.last_step = 41,
                                  .checkpoint = "runs/a/checkpoints/step_000040",
                                  .section = "step",
                                  .host = "node7",
                                  .pid = 4711,
                                  .job = "99",
                                  .next_command = "mpirun -np 4 qat_dist"}));
  const Value running = read_status(path);
  EXPECT_EQ(running.at("state").as_string(), "running");
  EXPECT_EQ(running.at("last_step").as_int(), 41);
  EXPECT_EQ(running.at("checkpoint").as_string(), "runs/a/checkpoints/step_000040");
  EXPECT_EQ(running.at("section").as_string(), "step");
  EXPECT_EQ(running.at("host").as_string(), "node7");
  EXPECT_EQ(running.at("pid").as_int(), 4711);
  EXPECT_EQ(running.at("job").as_string(), "99");
  EXPECT_EQ(running.at("next").as_string(), "mpirun -np 4 qat_dist");
  EXPECT_TRUE(running.at("time").as_string().ends_with("Z"));
  EXPECT_EQ(running.find("exit_code"), nullptr);

  ASSERT_TRUE(write_status(path, {.state = "failed", .exit_code = 7, .what = "rank 2 hangs"}));
  const Value failed = read_status(path);
  EXPECT_EQ(failed.at("state").as_string(), "failed");
  EXPECT_EQ(failed.at("exit_code").as_int(), 7);
  EXPECT_EQ(failed.at("what").as_string(), "rank 2 hangs");
  EXPECT_TRUE(failed.at("last_step").is_null());
  EXPECT_TRUE(failed.at("checkpoint").is_null());
  EXPECT_TRUE(failed.at("next").is_null());
}

TEST(StatusFile, LeavesNothingBesideIt) {
  const ScratchFolder folder;
  ASSERT_TRUE(write_status(folder.path() / "status.json", {}));
  ASSERT_TRUE(write_status(folder.path() / "status.json", {}));
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
}

TEST(StatusFile, AFolderThatIsGoneIsReported) { EXPECT_FALSE(write_status("/nowhere/at/all/status.json", {})); }

}  // namespace
}  // namespace qat

#include "src/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <time.h>

#include <thread>
#include <vector>

#include "src/base/file.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr WallTime kTime{std::chrono::milliseconds(1795311465123)};

TEST(LogLines, CarryTimeRankAndLevel) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  EXPECT_EQ(format_log_lines(kTime, 3, LogLevel::kInfo, "step 7"), "2026-11-22T01:37:45.123 [rank 3] info: step 7");
  ::setenv("TZ", "XXX-2:30", 1);
  ::tzset();
  EXPECT_EQ(format_log_lines(kTime, 12, LogLevel::kError, ""), "2026-11-22T04:07:45.123 [rank 12] error: ");
  ::unsetenv("TZ");
  ::tzset();
}

TEST(LogLines, EveryLineOfATextIsALineOfTheLog) {
  ::setenv("TZ", "UTC", 1);
  ::tzset();
  EXPECT_EQ(format_log_lines(kTime, 0, LogLevel::kWarning, "a\nb\n"),
            "2026-11-22T01:37:45.123 [rank 0] warning: a\n2026-11-22T01:37:45.123 [rank 0] warning: b");
  ::unsetenv("TZ");
  ::tzset();
}

TEST(Logger, WritesAFilePerRankAndGoesOnInIt) {
  const ScratchFolder folder;
  { Logger({.dir = folder.path() / "logs", .rank = 3}).debug("first run"); }
  Logger logger({.dir = folder.path() / "logs", .rank = 3});
  logger.warning("second run");
  EXPECT_EQ(logger.file(), folder.path() / "logs" / "rank_003.log");
  const std::string text = read_file(logger.file());  // while the logger lives: a crash loses nothing
  EXPECT_THAT(text, HasSubstr("[rank 3] debug: first run\n"));
  EXPECT_THAT(text, HasSubstr("[rank 3] warning: second run\n"));
}

TEST(Logger, TheConsoleGetsWhatMattersWithoutClutter) {
  std::vector<std::string> console;
  Logger logger({.console = [&](std::string_view line) { console.emplace_back(line); }});
  logger.debug("hidden");
  logger.info("plain");
  logger.warning("odd");
  logger.error("bad");
  EXPECT_THAT(console, ElementsAre("plain", "warning: odd", "error: bad"));
  EXPECT_EQ(logger.file(), "");
}

TEST(Logger, LeavesOutLinesBelowTheFilesLevel) {
  const ScratchFolder folder;
  Logger logger({.dir = folder.path(), .file_level = LogLevel::kWarning});
  logger.info("hidden");
  logger.error("shown");
  const std::string text = read_file(logger.file());
  EXPECT_EQ(text.find("hidden"), std::string::npos);
  EXPECT_THAT(text, HasSubstr("shown"));
}

TEST(Logger, LinesOfSeveralThreadsDoNotMix) {
  const ScratchFolder folder;
  Logger logger({.dir = folder.path()});
  std::vector<std::thread> threads;
  for (const char letter : {'a', 'b', 'c'}) {
    threads.emplace_back([&logger, letter] {
      for (int i = 0; i < 200; ++i) logger.info(std::string(100, letter));
    });
  }
  for (std::thread& thread : threads) thread.join();
  const std::string text = read_file(logger.file());
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 600);
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    const std::string message = text.substr(end - 100, 100);
    ASSERT_EQ(message, std::string(100, message[0]));
    begin = end + 1;
  }
}

TEST(Logger, ALogThatCannotBeWrittenIsReportedOnceAndStopsNothing) {
  const ScratchFolder folder;
  fs::create_symlink("/dev/full", folder.path() / "rank_000.log");
  std::vector<std::string> console;
  Logger logger({.dir = folder.path(), .console = [&](std::string_view line) { console.emplace_back(line); }});
  logger.info("one");
  logger.info("two");
  ASSERT_EQ(console.size(), 3U);
  EXPECT_THAT(console[0], HasSubstr("rank_000.log cannot be written: No space left on device"));
  EXPECT_EQ(console[1], "one");
  EXPECT_EQ(console[2], "two");
}

TEST(Logger, RefusesAFolderThatCannotBeMade) { EXPECT_THROW(Logger({.dir = "/dev/null/logs"}), Error); }

}  // namespace
}  // namespace qat

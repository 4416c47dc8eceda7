#include "src/base/file.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "src/base/clock.h"
#include "tests/src/base/scratch_folder.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

mode_t mode_of(const fs::path& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 0777;
}

std::string refusal(const fs::path& dir) {
  try {
    create_directories_checked(dir, "run.dir");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

std::vector<std::string> names_in(const fs::path& dir) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(dir)) names.push_back(entry.path().filename().string());
  return names;
}

TEST(WriteFileAtomic, MakesAndReplacesAFileAndLeavesNothingElse) {
  const ScratchFolder folder;
  const fs::path path = folder.path() / "a b" / "f\xC3\xBCr.json";
  fs::create_directory(path.parent_path());
  const std::string bytes("zero\0byte\r\n", 11);
  write_file_atomic(path, "old, and longer than the new content");
  write_file_atomic(path, bytes);
  EXPECT_EQ(read_file(path), bytes);
  EXPECT_THAT(names_in(path.parent_path()), ::testing::ElementsAre("f\xC3\xBCr.json"));
}

TEST(WriteFileAtomic, ObeysTheUmaskAndKeepsThePermissionsOfAFileItReplaces) {
  const ScratchFolder folder;
  const mode_t old = ::umask(077);
  write_file_atomic(folder.path() / "private", "x");
  ::umask(022);
  write_file_atomic(folder.path() / "public", "x");
  write_file_atomic(folder.path() / "private", "y");
  ::umask(old);
  EXPECT_EQ(mode_of(folder.path() / "private"), 0600U);
  EXPECT_EQ(mode_of(folder.path() / "public"), 0644U);
}

TEST(WriteFileAtomic, AFailureNamesTheFileAndLeavesTheOldContent) {
  const ScratchFolder folder;
  EXPECT_THROW(write_file_atomic(folder.path() / "missing" / "x", "y"), Error);
  fs::create_directories(folder.path() / "taken" / "by a folder");  // rename over it fails after the writing succeeded
  try {
    write_file_atomic(folder.path() / "taken", "y", ErrorKind::kCheckpoint);
    FAIL() << "a folder was replaced by a file";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint);
    EXPECT_THAT(error.what(), HasSubstr((folder.path() / "taken").string()));
  }
  EXPECT_THAT(names_in(folder.path()), ::testing::ElementsAre("taken"));
}

TEST(ReadFile, ReadsFilesWhoseSizeIsUnknownAndNamesWhatIsMissing) {
  EXPECT_THAT(read_file("/proc/self/status"), HasSubstr("Pid:"));
  try {
    read_file("/nowhere/at all.bin");
    FAIL() << "read a file that does not exist";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_STREQ(error.what(), "cannot read /nowhere/at all.bin: No such file or directory");
  }
}

TEST(CreateDirectoriesChecked, MakesFoldersAboveToo) {
  const ScratchFolder folder;
  const fs::path dir = folder.path() / "runs" / "ein Ort mit Umlaut \xC3\xA4" / "7";
  EXPECT_EQ(refusal(dir), "");
  EXPECT_EQ(refusal(dir), "");  // a second time: it exists
  EXPECT_TRUE(fs::is_directory(dir));
  EXPECT_THAT(names_in(dir), IsEmpty());
}

TEST(CreateDirectoriesChecked, NamesKeyPathAndWhatStandsInTheWay) {
  const ScratchFolder folder;
  std::ofstream(folder.path() / "file") << "x";
  fs::create_symlink(folder.path() / "gone", folder.path() / "link");
  for (const char* below : {"file", "file/run"}) {
    const std::string message = refusal(folder.path() / below);
    EXPECT_THAT(message, HasSubstr("run.dir"));
    EXPECT_THAT(message, HasSubstr((folder.path() / below).string()));
    EXPECT_THAT(message, HasSubstr((folder.path() / "file is not a folder").string()));
  }
  EXPECT_THAT(refusal(folder.path() / "link"), HasSubstr("is a link to something that does not exist"));
  EXPECT_THAT(refusal(folder.path() / "link" / "run"), HasSubstr("is a link to something that does not exist"));
  EXPECT_THAT(refusal(""), HasSubstr("the name is empty"));
  EXPECT_THAT(refusal("/proc/qat_dist"), Not(IsEmpty()));  // writable by its permissions, and yet it is not
}

TEST(CreateDirectoriesChecked, RefusesFoldersThatTheUserMayNotWriteTo) {
  const ScratchFolder folder;
  fs::create_directory(folder.path() / "theirs");
  fs::permissions(folder.path() / "theirs", fs::perms(0555));
  fs::permissions(folder.path(), fs::perms(0755));
  // Root may write anywhere: become nobody for the two calls.
  const bool root = ::geteuid() == 0;
  if (root) {
    ASSERT_EQ(::seteuid(65534), 0);
  }
  const std::string existing = refusal(folder.path() / "theirs");
  const std::string below = refusal(folder.path() / "theirs" / "run");
  if (root) {
    ASSERT_EQ(::seteuid(0), 0);
  }
  fs::permissions(folder.path() / "theirs", fs::perms(0755));
  EXPECT_THAT(existing, HasSubstr((folder.path() / "theirs is not writable for user").string()));
  EXPECT_THAT(below, HasSubstr((folder.path() / "theirs is not writable for user").string()));
}

TEST(AppendFile, AppendsToWhatIsThere) {
  const ScratchFolder folder;
  { AppendFile(folder.path() / "lines").append("one"); }
  AppendFile file(folder.path() / "lines");
  file.append("two");
  EXPECT_EQ(read_file(folder.path() / "lines"), "one\ntwo\n");  // without closing it
}

TEST(AppendFile, AFullDiskIsAnErrorThatNamesTheFile) {
  AppendFile file("/dev/full");
  EXPECT_FALSE(file.try_append("x"));
  try {
    file.append("x");
    FAIL() << "wrote to a full device";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "cannot append to /dev/full: No space left on device");
  }
}

TEST(ReplaceFile, ReplacesOrSaysThatItCannot) {
  const ScratchFolder folder;
  EXPECT_TRUE(replace_file(folder.path() / "state", "a longer text"));
  EXPECT_TRUE(replace_file(folder.path() / "state", "short"));
  EXPECT_EQ(read_file(folder.path() / "state"), "short");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path()), {}), 1);
  EXPECT_FALSE(replace_file(folder.path() / "missing" / "state", "x"));
  EXPECT_EQ(errno, ENOENT);
}

TEST(WriteWithin, GivesUpOnAPipeThatNobodyReads) {
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const FileDescriptor out(ends[0]), in(ends[1]);
  write_within(in.get(), "a message", 1.0);
  char text[16] = {};
  ASSERT_EQ(::read(out.get(), text, sizeof(text)), 9);
  EXPECT_STREQ(text, "a message");
  const auto start = std::chrono::steady_clock::now();
  write_within(in.get(), std::string(1 << 20, 'x'), 0.3);
  const auto seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  EXPECT_GE(seconds, 0.3);
  EXPECT_LT(seconds, 5.0);
}

TEST(Clock, TimesHaveMillisecondsAndNoLocale) {
  using std::chrono::milliseconds;
  EXPECT_EQ(utc_time(WallTime(milliseconds(1795311465123))), "2026-11-22T01:37:45.123Z");
  EXPECT_EQ(utc_time(WallTime(milliseconds(-1))), "1969-12-31T23:59:59.999Z");
  EXPECT_THAT(local_time(std::chrono::system_clock::now()),
              ::testing::MatchesRegex("20[0-9][0-9]-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9][.][0-9]{3}"));
}

}  // namespace
}  // namespace qat

#include "src/data/token_file.h"

#include <gmock/gmock.h>
#include <sys/resource.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <filesystem>
#include <fstream>
#include <random>
#include <thread>

#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using testing::counting;
using ::testing::ElementsAre;
using testing::error_message;
using ::testing::HasSubstr;
using testing::read_text;
using testing::TemporaryFolder;
using testing::write_shard;
using testing::write_text;

std::vector<int> tokens_of(const std::string& path) {
  const TokenFile file(path);
  std::vector<std::uint16_t> tokens(static_cast<std::size_t>(file.tokens()));
  file.read(0, tokens);
  return {tokens.begin(), tokens.end()};
}

// A shard's bytes with one header word replaced.
std::string with_header_word(std::string bytes, std::size_t word, std::int32_t value) {
  std::memcpy(bytes.data() + 4 * word, &value, sizeof value);
  return bytes;
}

TEST(TokenFile, HasTheBytesOfLlmC) {
  const TemporaryFolder folder;
  const std::string bytes = read_text(write_shard(folder.file("a.bin"), {1, 256, 65535}));
  ASSERT_EQ(bytes.size(), 1030U);
  std::int32_t header[256];
  std::memcpy(header, bytes.data(), sizeof header);
  EXPECT_EQ(header[0], 20240520);
  EXPECT_EQ(header[1], 1);
  EXPECT_EQ(header[2], 3);
  for (int i = 3; i < 256; ++i) EXPECT_EQ(header[i], 0);
  EXPECT_EQ(bytes.substr(1024), std::string("\x01\x00\x00\x01\xFF\xFF", 6));
}

TEST(TokenFile, ReadsWhatWasWrittenInPieces) {
  const TemporaryFolder folder;
  TokenFileWriter writer(folder.file("a.bin"));
  std::vector<int> all;
  for (int i = 0; i < 300; ++i) {  // 600,000 tokens: more than the writer's buffer twice over
    const std::vector<int> ids = counting(i * 200, 2000);
    writer.append(ids);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  writer.complete();
  writer.publish();
  EXPECT_EQ(writer.tokens(), 600'000);
  EXPECT_EQ(tokens_of(folder.file("a.bin")), all);
}

TEST(TokenFile, NamesFileOffsetExpectedAndFound) {
  const TemporaryFolder folder;
  const std::string good = read_text(write_shard(folder.file("good.bin"), {5, 6, 7, 8}));
  const auto message = [&](std::string_view content) {
    const std::string path = write_text(folder.file("bad.bin"), content);
    return error_message(ErrorKind::kData, [&] { const TokenFile file(path); });
  };
  EXPECT_THAT(message(with_header_word(good, 0, 7)),
              AllOf(HasSubstr(folder.file("bad.bin")), HasSubstr("at byte 0: expected the magic number 20240520"),
                    HasSubstr("found 7")));
  EXPECT_THAT(message(with_header_word(good, 1, 7)), HasSubstr("at byte 4: expected version 1"));
  EXPECT_THAT(message(with_header_word(good, 2, 0)),
              HasSubstr("at byte 8: expected a token count of at least 1, found 0"));
  EXPECT_THAT(message(with_header_word(good, 2, -1)), HasSubstr("found -1"));
  EXPECT_THAT(message(with_header_word(good, 2, 0x7FFFFFFF)),
              HasSubstr("at byte 1032: expected 4294968318 bytes in all"));
  EXPECT_THAT(message(good.substr(0, 1031)),
              AllOf(HasSubstr("at byte 1031: expected 1032 bytes in all"), HasSubstr("1 bytes missing")));
  EXPECT_THAT(message(good + "xy"), HasSubstr("at byte 1032: expected the end of the file"));
  EXPECT_THAT(message(good.substr(0, 1000)), HasSubstr("at byte 1000: expected a header of 1024 bytes"));
  EXPECT_THAT(message(""), HasSubstr("at byte 0: expected a header"));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { const TokenFile file(folder.file("none.bin")); }),
              AllOf(HasSubstr("none.bin"), HasSubstr("No such file")));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { const TokenFile file(folder.path().string()); }),
              HasSubstr("not a regular file but a folder"));
}

TEST(TokenFile, RandomHeadersGiveADataErrorOrTheFile) {
  const TemporaryFolder folder;
  const std::string good = read_text(write_shard(folder.file("good.bin"), {5, 6, 7, 8}));
  std::mt19937 random(1);
  int refused = 0;
  for (int i = 0; i < 500; ++i) {
    std::string bytes = good;
    for (int edit = 0; edit < 2; ++edit) bytes[random() % 16] = static_cast<char>(random());
    if (random() % 4 == 0) bytes.resize(random() % 1100);
    const std::string path = write_text(folder.file("bad.bin"), bytes);
    try {
      EXPECT_EQ(TokenFile(path).tokens(), 4);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(TokenFile, ReadsAnyRange) {
  const TemporaryFolder folder;
  const TokenFile file(write_shard(folder.file("a.bin"), counting(100, 50)));
  EXPECT_EQ(file.tokens(), 50);
  for (std::int64_t begin = 0; begin <= 50; ++begin) {
    std::vector<std::uint16_t> out(static_cast<std::size_t>(50 - begin) / 2);
    file.read(begin, out);
    const std::vector<int> want = counting(100 + static_cast<int>(begin), out.size());
    EXPECT_TRUE(std::equal(want.begin(), want.end(), out.begin(), out.end()));
  }
  std::vector<std::uint16_t> out(2);
  EXPECT_THROW(file.read(49, out), Error);
  EXPECT_THROW(file.read(-1, out), Error);
}

// Files that change under way: the open one, with what was read of it known or not.
class TokenFileInUse : public ::testing::Test {
 protected:
  // Reads the whole file in one go.
  void read(std::size_t first = 0) const {
    std::vector<std::uint16_t> out(tokens_.size() - first);
    file_.read(static_cast<std::int64_t>(first), out);
    EXPECT_TRUE(std::equal(out.begin(), out.end(), tokens_.begin() + static_cast<std::ptrdiff_t>(first)));
  }
  std::string refusal(std::size_t first = 0) const {
    return error_message(ErrorKind::kData, [&] { read(first); });
  }
  // In place, unlike write_shard, and with the old date of writing: as `rsync --inplace --times`.
  void overwrite(const std::vector<int>& tokens) const {
    const auto date = std::filesystem::last_write_time(path_);
    const std::string bytes = read_text(write_shard(folder_.file("other.bin"), tokens));
    wait();
    std::fstream(path_, std::ios::in | std::ios::out | std::ios::binary) << bytes;
    std::filesystem::last_write_time(path_, date);
  }
  void touch() const {
    wait();
    std::filesystem::last_write_time(path_, std::filesystem::last_write_time(path_) + std::chrono::seconds(5));
  }
  // Two changes within a tick of the file system's clock have the same time.
  static void wait() { std::this_thread::sleep_for(std::chrono::milliseconds(20)); }

  const TemporaryFolder folder_;
  const std::vector<int> tokens_ = counting(0, 3000);
  const std::string path_ = write_shard(folder_.file("a.bin"), tokens_);
  TokenFile file_{path_};
};

TEST_F(TokenFileInUse, IsRefusedWhenCutShort) {
  file_.set_hash(file_.scan(3000).hash);
  read();
  std::filesystem::resize_file(path_, 5000);
  EXPECT_THAT(refusal(2990), AllOf(HasSubstr(path_), HasSubstr("changed while it was in use"),
                                   HasSubstr("it has 5000 bytes and had 7024"), HasSubstr("data.allow_change")));
  EXPECT_THAT(refusal(0), HasSubstr("5000 bytes"));
  std::vector<std::uint16_t> out(1);
  EXPECT_THROW(file_.read(0, out), Error);  // also what is still there
  EXPECT_THROW((void)file_.scan(3000), Error);
}

TEST_F(TokenFileInUse, IsRefusedWhenItHoldsOtherTokens) {
  file_.set_hash(file_.scan(3000).hash);
  std::vector<int> other = tokens_;
  other.back() = 0;
  overwrite(other);
  std::vector<std::uint16_t> out(1);
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { file_.read(0, out); }),
              AllOf(HasSubstr(path_), HasSubstr("it holds other tokens")));
}

TEST_F(TokenFileInUse, MayBeTouchedRenamedOrWrittenAgainWithTheSameTokens) {
  file_.set_hash(file_.scan(3000).hash);
  touch();
  read();
  overwrite(tokens_);
  read();
  std::filesystem::rename(path_, folder_.file("b.bin"));
  read();
}

TEST_F(TokenFileInUse, IsRefusedWhenChangedBeforeItsContentWasKnown) {
  touch();
  EXPECT_THAT(refusal(), HasSubstr("it holds other tokens"));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { (void)file_.scan(3000); }),
              HasSubstr("written to while it was being read"));
}

TEST_F(TokenFileInUse, IsReadToTheEndAsItWasWhenAnotherTakesItsName) {
  file_.set_hash(file_.scan(3000).hash);
  write_shard(path_, counting(7, 10));
  read();
  std::filesystem::remove(path_);
  read();
}

TEST_F(TokenFileInUse, MoreMayBeOpenThanThePresetLimitAllows) {
  ::rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const ::rlimit lower{.rlim_cur = 40, .rlim_max = limit.rlim_max};
  ASSERT_GT(limit.rlim_max, 200U);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &lower), 0);
  std::deque<TokenFile> files;
  for (int i = 0; i < 100; ++i) files.emplace_back(path_);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(files.size(), 100U);
}

TEST(TokenFileWriter, RefusesIdsThatDoNotFitSixteenBits) {
  const TemporaryFolder folder;
  for (const int id : {65536, -1}) {
    TokenFileWriter writer(folder.file("a.bin"));
    EXPECT_THAT(error_message(ErrorKind::kData,
                              [&] {
                                writer.append(std::vector<int>{1, id});
                              }),
                HasSubstr("token id " + std::to_string(id)));
  }
}

TEST(TokenFileWriter, AnUnfinishedFileIsNeverSeen) {
  const TemporaryFolder folder;
  write_shard(folder.file("a.bin"), {1, 2, 3});
  {
    TokenFileWriter writer(folder.file("a.bin"));
    writer.append(counting(0, 60000));
    EXPECT_THAT(tokens_of(folder.file("a.bin")), ElementsAre(1, 2, 3));
    writer.complete();
    EXPECT_THAT(tokens_of(folder.file("a.bin")), ElementsAre(1, 2, 3));
  }
  const auto entries = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);  // no temporary file is left
}

TEST(TokenFileWriter, NamesThePathItCannotWrite) {
  EXPECT_THAT(error_message(ErrorKind::kData, [] { TokenFileWriter writer("/nowhere/a.bin"); }),
              AllOf(HasSubstr("/nowhere/a.bin"), HasSubstr("No such file")));
  const TemporaryFolder folder;
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { TokenFileWriter(folder.file("a.bin")).complete(); }),
              HasSubstr("would hold no token"));
}

}  // namespace
}  // namespace qat

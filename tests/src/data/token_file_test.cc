#include "src/data/token_file.h"

#include <gmock/gmock.h>

#include <cstring>
#include <random>

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
  const TokenFile file = TokenFile::open(folder.file("a.bin"));
  ASSERT_EQ(file.tokens().size(), all.size());
  EXPECT_TRUE(std::equal(all.begin(), all.end(), file.tokens().begin()));
}

TEST(TokenFile, NamesFileOffsetExpectedAndFound) {
  const TemporaryFolder folder;
  const std::string good = read_text(write_shard(folder.file("good.bin"), {5, 6, 7, 8}));
  const auto message = [&](std::string_view content) {
    const std::string path = write_text(folder.file("bad.bin"), content);
    return error_message(ErrorKind::kData, [&] { TokenFile::open(path); });
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
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { TokenFile::open(folder.file("none.bin")); }),
              AllOf(HasSubstr("none.bin"), HasSubstr("No such file")));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { TokenFile::open(folder.path().string()); }),
              HasSubstr("not a regular file"));
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
      EXPECT_EQ(TokenFile::open(path).tokens().size(), 4U);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      ++refused;
    }
  }
  EXPECT_GT(refused, 300);
}

TEST(TokenFile, TheFirstTokenBeyondTheVocabularyIsNamedByOffset) {
  std::vector<std::uint16_t> tokens(10000, 256);
  EXPECT_NO_THROW(check_vocabulary(tokens, 257, "a.bin", 1024));
  EXPECT_NO_THROW(check_vocabulary({}, 257, "a.bin", 1024));
  tokens[9999] = 257;
  tokens[9000] = 50256;
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { check_vocabulary(tokens, 257, "a.bin", 1024); }),
              AllOf(HasSubstr("a.bin: at byte 19024 (token 9000)"), HasSubstr("vocabulary of 257, found 50256")));
  EXPECT_NO_THROW(check_vocabulary(tokens, 50257, "a.bin", 1024));
  tokens[0] = 65535;
  EXPECT_NO_THROW(check_vocabulary(tokens, 65536, "a.bin", 1024));
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
    EXPECT_THAT(TokenFile::open(folder.file("a.bin")).tokens(), ElementsAre(1, 2, 3));
    writer.complete();
    EXPECT_THAT(TokenFile::open(folder.file("a.bin")).tokens(), ElementsAre(1, 2, 3));
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

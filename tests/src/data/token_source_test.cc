#include "src/data/token_source.h"

#include <gmock/gmock.h>

#include "src/data/builtin_text.h"
#include "src/text/tokenizer.h"
#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using testing::counting;
using ::testing::ElementsAre;
using testing::error_message;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_shard;
using testing::write_text;

std::string decoded(const TokenSource& source) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(source.total_tokens()));
  source.copy(0, ids);
  return ByteTokenizer().decode(ids);
}

TEST(TokenSource, CopiesRangesAcrossSegments) {
  TokenSource source;
  source.add_tokens("a", {0, 1, 2});
  source.add_tokens("b", {3});
  source.add_tokens("c", {4, 5, 6, 7});
  EXPECT_EQ(source.total_tokens(), 8);
  for (std::size_t begin = 0; begin <= 8; ++begin) {
    for (std::size_t end = begin; end <= 8; ++end) {
      std::vector<std::int32_t> out(end - begin);
      source.copy(static_cast<std::int64_t>(begin), out);
      EXPECT_EQ(out, counting(static_cast<int>(begin), end - begin));
    }
  }
  std::vector<std::int32_t> out(2);
  EXPECT_THROW(source.copy(7, out), Error);
  EXPECT_THROW(source.copy(-1, out), Error);
}

TEST(TokenSource, OpensGlobsInOrderOfNameAndKeepsTheTokensWhenMoved) {
  const TemporaryFolder folder;
  write_shard(folder.file("train_001.bin"), {3, 4});
  write_shard(folder.file("train_000.bin"), {1, 2});
  write_shard(folder.file("extra[1].bin"), {0});  // a name that as a glob would match something else
  TokenSource opened = open_tokens({folder.file("extra[1].bin"), folder.file("train_*.bin")}, Split::kTrain);
  const TokenSource source = std::move(opened);
  ASSERT_EQ(source.segments().size(), 3U);
  EXPECT_EQ(source.segments()[1].name, folder.file("train_000.bin"));
  EXPECT_EQ(source.segments()[2].first, 3);
  std::vector<std::int32_t> out(5);
  source.copy(0, out);
  EXPECT_THAT(out, ElementsAre(0, 1, 2, 3, 4));
}

TEST(TokenSource, NamesTheKeyAndThePatternThatIsWrong) {
  const TemporaryFolder folder;
  const std::string shard = write_shard(folder.file("a.bin"), {1, 2});
  const auto message = [&](ErrorKind kind, const std::vector<std::string>& patterns) {
    return error_message(kind, [&] { open_tokens(patterns, Split::kVal); });
  };
  EXPECT_THAT(message(ErrorKind::kData, {shard, folder.file("none_*.bin")}),
              AllOf(HasSubstr("data.val"), HasSubstr("none_*.bin\" matches no file")));
  EXPECT_THAT(message(ErrorKind::kData, {folder.file("*.bin"), shard}), HasSubstr("is named a second time"));
  EXPECT_THAT(message(ErrorKind::kData, {write_text(folder.file("b.bin"), "x")}), HasSubstr("at byte 1"));
  EXPECT_THAT(message(ErrorKind::kConfig, {}), HasSubstr("data.val is empty"));
  EXPECT_THAT(message(ErrorKind::kConfig, {"builtin", shard}), HasSubstr("mixes \"builtin\""));
}

TEST(TokenSource, AFileIsReadOnceWhateverLeadsToIt) {
  const TemporaryFolder folder;
  const std::string shard = write_shard(folder.file("a.bin"), {1, 2});
  std::filesystem::create_symlink("a.bin", folder.path() / "soft.bin");
  std::filesystem::create_hard_link(shard, folder.path() / "hard.bin");
  for (const std::string& again : {folder.file("./a.bin"), folder.file("soft.bin"), folder.file("hard.bin")})
    EXPECT_THAT(error_message(ErrorKind::kData,
                              [&] {
                                open_tokens({shard, again}, Split::kTrain);
                              }),
                AllOf(HasSubstr("data.train: token file " + again), HasSubstr("is the same file as " + shard)));
  const std::string copy = write_shard(folder.file("copy.bin"), {1, 2});
  EXPECT_EQ(open_tokens({shard, copy}, Split::kTrain).total_tokens(), 4);
}

TEST(TokenSource, ScansASegmentAndFindsATokenBeyondTheVocabularyInIt) {
  const TemporaryFolder folder;
  write_shard(folder.file("a.bin"), {1, 2});
  write_shard(folder.file("b.bin"), {1, 300});
  const TokenSource source = open_tokens({folder.file("?.bin")}, Split::kTrain);
  EXPECT_EQ(source.scan(0, 300).largest_id, 2);
  EXPECT_EQ(source.scan(1, 301).largest_id, 300);
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { (void)source.scan(1, 300); }),
              AllOf(HasSubstr("b.bin: at byte 1026 (token 1)"), HasSubstr("found 300")));
}

TEST(TokenSource, TokensInMemoryAndInAFileHaveTheSameContent) {
  const TemporaryFolder folder;
  TokenSource source;
  source.add_file(write_shard(folder.file("a.bin"), {5, 9, 7}));
  source.add_tokens("memory", {5, 9, 7});
  EXPECT_FALSE(source.segments()[0].content.has_value());
  ASSERT_TRUE(source.segments()[1].content.has_value());
  EXPECT_EQ(source.scan(0, 10), *source.segments()[1].content);
  EXPECT_EQ(source.scan(1, 10).largest_id, 9);
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { (void)source.scan(1, 9); }),
              HasSubstr("memory: at byte 2 (token 1)"));
}

TEST(BuiltinText, HoldsOutTheLastTenthOfEveryFileAndSkipsLinks) {
  const TemporaryFolder folder;
  write_text(folder.file("b"), "0123456789abcdefghij");
  write_text(folder.file("a"), "x\xFFy");  // shorter than ten bytes: nothing to hold out
  std::filesystem::create_symlink("b", folder.path() / "c");
  std::filesystem::create_directory(folder.path() / "d");
  const TokenSource train = builtin_text(Split::kTrain, folder.path().string());
  EXPECT_EQ(decoded(train), "<|endoftext|>x\xFFy<|endoftext|>0123456789abcdefgh");
  EXPECT_EQ(train.total_tokens(), 23);
  EXPECT_EQ(decoded(builtin_text(Split::kVal, folder.path().string())), "<|endoftext|>ij");
}

TEST(BuiltinText, IsThereOnThisSystemAndFitsTheByteVocabulary) {
  const TokenSource train = open_tokens({"builtin"}, Split::kTrain), val = open_tokens({"builtin"}, Split::kVal);
  EXPECT_GT(train.total_tokens(), 100'000);
  EXPECT_NEAR(static_cast<double>(val.total_tokens()) / static_cast<double>(train.total_tokens()), 1.0 / 9, 0.01);
  EXPECT_LE(train.segments()[0].content->largest_id, ByteTokenizer::kEndOfTextId);
  EXPECT_LE(val.segments()[0].content->largest_id, ByteTokenizer::kEndOfTextId);
  EXPECT_THAT(decoded(train), HasSubstr("GNU GENERAL PUBLIC LICENSE"));
}

TEST(BuiltinText, SaysHowToUseOnesOwnTextWhereTheFolderIsMissing) {
  const TemporaryFolder folder;
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { builtin_text(Split::kTrain, folder.file("none")); }),
              AllOf(HasSubstr("No such file"), HasSubstr("data.train"), HasSubstr("qat_dist tokenize")));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { builtin_text(Split::kTrain, folder.path().string()); }),
              HasSubstr("holds no text"));
}

}  // namespace
}  // namespace qat

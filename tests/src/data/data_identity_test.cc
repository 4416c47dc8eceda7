#include "src/data/data_identity.h"

#include <gmock/gmock.h>

#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_message;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::TemporaryFolder;
using testing::write_shard;

SegmentIdentity segment(const std::string& file, std::uint64_t hash, std::int64_t tokens = 100) {
  return {.file = file, .tokens = tokens, .content = {.hash = hash, .largest_id = 9}};
}

const SplitIdentity kFiles = {segment("/d/a.bin", 0xA), segment("/d/b.bin", 0xB), segment("/d/c.bin", 0xC)};

std::vector<std::string> changes(const SplitIdentity& after, const SplitIdentity& before = kFiles) {
  return describe_changes(before, after,
                          {.before = "then", .after = "now", .missing = "is missing", .added = "is new"});
}

TEST(DataIdentity, OfASourceAreItsFilesWithTheirContent) {
  const TemporaryFolder folder;
  TokenSource source;
  source.add_file(write_shard(folder.file("a.bin"), {1, 2, 300}));
  EXPECT_THROW((void)identity_of(source), Error);  // not read yet
  source.set_content(0, source.scan(0, 301));
  const SplitIdentity split = identity_of(source);
  ASSERT_EQ(split.size(), 1U);
  EXPECT_EQ(split[0].file, folder.file("a.bin"));
  EXPECT_EQ(split[0].tokens, 3);
  EXPECT_EQ(split[0].content.largest_id, 300);
}

TEST(DataIdentity, ComesBackFromItsJson) {
  const DataIdentity data{.train = {segment("/d/\"a\" \xC3\xA4.bin", 0xFFFFFFFFFFFFFFFF), segment("b", 0, 1)},
                          .val = {segment("v", 1)}};
  EXPECT_EQ(parse_data_identity(to_json(data), "x"), data);
  EXPECT_EQ(parse_data_identity(to_json(DataIdentity{}), "x"), DataIdentity{});
}

TEST(DataIdentity, TextThatIsNoneIsACheckpointError) {
  const auto message = [](const std::string& text) {
    return error_message(ErrorKind::kCheckpoint, [&] { (void)parse_data_identity(text, "the list"); });
  };
  EXPECT_THAT(message("{"), HasSubstr("the list"));
  EXPECT_THAT(message("{\"version\": 2}"), AllOf(HasSubstr("version 2"), HasSubstr("a newer one")));
  EXPECT_THAT(message("{\"version\": 1, \"train\": []}"), HasSubstr("val"));
  std::string bad = to_json(DataIdentity{.train = kFiles, .val = {}});
  bad.replace(bad.find("000a"), 4, "000z");
  EXPECT_THAT(message(bad), HasSubstr("xxh3"));
}

TEST(DataIdentity, FoldersAndNamesDoNotCount) {
  EXPECT_THAT(changes(kFiles), IsEmpty());
  SplitIdentity moved = kFiles;
  moved[0].file = "/elsewhere/a.bin";
  moved[1].file = "z.bin";
  EXPECT_THAT(changes(moved), IsEmpty());
}

TEST(DataIdentity, SaysWhichFilesCameWentOrChanged) {
  SplitIdentity after = kFiles;
  after.push_back(segment("/d/d.bin", 0xD, 55));
  EXPECT_THAT(changes(after), ElementsAre("d.bin is new (55 tokens, XXH3 000000000000000d)"));
  EXPECT_THAT(changes(kFiles, after), ElementsAre("d.bin is missing (55 tokens, XXH3 000000000000000d)"));
  after = kFiles;
  after[1] = segment("/d/b.bin", 0xBB, 7);
  EXPECT_THAT(changes(after), ElementsAre("b.bin has other content: 100 tokens, XXH3 000000000000000b then; "
                                          "7 tokens, XXH3 00000000000000bb now"));
  after[1] = segment("/d/b.bin", 0xB, 100);
  after[1].content.hash += 1;  // the same length
  EXPECT_THAT(changes(after), ElementsAre(HasSubstr("b.bin has other content")));
  after.erase(after.begin());
  after[0] = segment("x.bin", 0x1);
  EXPECT_THAT(changes(after),
              ElementsAre(HasSubstr("a.bin is missing"), HasSubstr("b.bin is missing"), HasSubstr("x.bin is new")));
  EXPECT_THAT(changes({}), ::testing::SizeIs(3));
}

TEST(DataIdentity, SaysWhenTheOrderIsAnother) {
  EXPECT_THAT(changes({kFiles[0], kFiles[2], kFiles[1]}),
              ElementsAre("the order is another: b.bin stands before c.bin then, and after it now"));
  // A renamed file is itself still.
  SplitIdentity renamed = {segment("0.bin", 0xB), kFiles[0], kFiles[2]};
  EXPECT_THAT(changes(renamed), ElementsAre(HasSubstr("a.bin stands before b.bin")));
  // One that came between others moves nobody.
  EXPECT_THAT(changes({kFiles[0], segment("n", 1), kFiles[1], kFiles[2]}), ElementsAre(HasSubstr("n is new")));
  // Two of the same tokens are told apart by their names.
  const SplitIdentity twins = {segment("a", 1), segment("b", 1), segment("c", 2)};
  EXPECT_THAT(changes({twins[1], twins[2]}, twins), ElementsAre(HasSubstr("a is missing")));
}

TEST(DataIdentity, ALongListOfDifferencesIsCut) {
  SplitIdentity many;
  for (int i = 0; i < 30; ++i) many.push_back(segment(std::to_string(i), static_cast<std::uint64_t>(i)));
  const auto lines = changes({}, many);
  EXPECT_EQ(lines.size(), 9U);
  EXPECT_EQ(lines.back(), "and 22 more differences");
}

TEST(ResumedData, ThatIsTheSamePassesInSilence) {
  const DataIdentity data{.train = kFiles, .val = {segment("v", 1)}};
  EXPECT_THAT(check_resumed_data(to_json(data), data, /*allow_change=*/false), IsEmpty());
}

TEST(ResumedData, OtherTrainingTokensAreRefusedOrAllowedByTheKey) {
  const DataIdentity saved{.train = kFiles, .val = {segment("v", 1)}};
  DataIdentity now = saved;
  now.train.push_back(segment("/d/d.bin", 0xD));
  const std::string refusal =
      error_message(ErrorKind::kData, [&] { (void)check_resumed_data(to_json(saved), now, false); });
  EXPECT_THAT(refusal, AllOf(HasSubstr("data.train is not what the checkpoint was trained on"),
                             HasSubstr("d.bin is new"), HasSubstr("data.allow_change")));
  EXPECT_THAT(check_resumed_data(to_json(saved), now, true),
              ElementsAre(AllOf(HasSubstr("data.train"), HasSubstr("d.bin is new"), Not(HasSubstr("allow_change")))));
}

TEST(ResumedData, OtherHeldOutTokensAreSaidOnly) {
  const DataIdentity saved{.train = kFiles, .val = {segment("v.bin", 1)}};
  DataIdentity now = saved;
  now.val = {segment("w.bin", 2)};
  EXPECT_THAT(check_resumed_data(to_json(saved), now, false),
              ElementsAre(AllOf(HasSubstr("data.val"), HasSubstr("v.bin is missing"), HasSubstr("w.bin is new"),
                                HasSubstr("cannot be compared"))));
  EXPECT_EQ(held_out_change(now.val, now.val), "");
}

TEST(ResumedData, ACheckpointThatSaysNothingIsSaid) {
  EXPECT_THAT(check_resumed_data("", {}, false), ElementsAre(HasSubstr("they are not compared")));
}

}  // namespace
}  // namespace qat

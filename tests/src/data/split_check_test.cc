#include "src/data/split_check.h"

#include <gmock/gmock.h>

#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_message;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::TemporaryFolder;
using testing::write_shard;

SplitIdentity ids_up_to(int largest, std::int64_t tokens = 5000) {
  return {{.file = "small", .tokens = 1, .content = {.hash = 1, .largest_id = 2}},
          {.file = "a.bin", .tokens = tokens, .content = {.hash = 2, .largest_id = largest}}};
}

const std::vector<std::string> kBuiltin = {"builtin"}, kFiles = {"a.bin"};

TEST(SameIds, BuiltInTextGoesWithByteTokensOnly) {
  EXPECT_THAT(check_same_ids({.train = kFiles, .val = kBuiltin}, ids_up_to(256), ids_up_to(256)), IsEmpty());
  EXPECT_THAT(check_same_ids({.train = kBuiltin, .val = kFiles}, ids_up_to(255), ids_up_to(256)), IsEmpty());
  EXPECT_THAT(check_same_ids({.train = kBuiltin, .val = kBuiltin}, ids_up_to(256), ids_up_to(256)), IsEmpty());
  EXPECT_THAT(
      error_message(ErrorKind::kConfig,
                    [] { (void)check_same_ids({.train = kFiles, .val = kBuiltin}, ids_up_to(257), ids_up_to(256)); }),
      AllOf(HasSubstr("data.val is [\"builtin\"]"), HasSubstr("data.train have ids up to 257"),
            HasSubstr("Set data.val to held-out token files")));
  EXPECT_THAT(
      error_message(ErrorKind::kConfig,
                    [] { (void)check_same_ids({.train = kBuiltin, .val = kFiles}, ids_up_to(256), ids_up_to(257)); }),
      AllOf(HasSubstr("data.train is [\"builtin\"]"), HasSubstr("data.val have ids up to 257")));
}

TEST(SameIds, FilesOfTwoKindsAreDoubtedWhereChanceDoesNotExplainThem) {
  const auto check = [](const SplitIdentity& train, const SplitIdentity& val) {
    return check_same_ids({.train = kFiles, .val = kFiles}, train, val);
  };
  EXPECT_THAT(check(ids_up_to(50256), ids_up_to(256)), ElementsAre(AllOf(HasSubstr("data.val has no id above 256"),
                                                                         HasSubstr("data.train has ids up to 50256"))));
  EXPECT_THAT(check(ids_up_to(256), ids_up_to(300)), ElementsAre(HasSubstr("data.train has no id above 256")));
  EXPECT_THAT(check(ids_up_to(50256), ids_up_to(256, 100)), IsEmpty());
  EXPECT_THAT(check(ids_up_to(50256), ids_up_to(257)), IsEmpty());
  EXPECT_THAT(check(ids_up_to(256), ids_up_to(255)), IsEmpty());
}

class Overlaps : public ::testing::Test {
 protected:
  TokenSource open(const std::vector<std::string>& names, Split split) const {
    std::vector<std::string> paths;
    for (const std::string& name : names) paths.push_back(folder_.file(name));
    TokenSource source = open_tokens(paths, split);
    for (std::size_t i = 0; i < source.segments().size(); ++i) source.set_content(i, source.scan(i, 65536));
    return source;
  }
  std::vector<std::string> find(const std::vector<std::string>& train, const std::vector<std::string>& val) const {
    return find_overlaps(open(train, Split::kTrain), open(val, Split::kVal));
  }
  void SetUp() override {
    for (const char* name : {"a.bin", "copy.bin"}) write_shard(folder_.file(name), {1, 2, 3});
    write_shard(folder_.file("b.bin"), {4, 5, 6});
    std::filesystem::create_symlink("a.bin", folder_.path() / "link.bin");
  }
  const TemporaryFolder folder_;
};

TEST_F(Overlaps, OfNoneNothingIsSaid) {
  EXPECT_THAT(find({"a.bin"}, {"b.bin"}), IsEmpty());
  EXPECT_THAT(find_overlaps(open_tokens({"builtin"}, Split::kTrain), open_tokens({"builtin"}, Split::kVal)), IsEmpty());
}

TEST_F(Overlaps, AreFoundByFileAndByContentNotBySpelling) {
  for (const char* name : {"a.bin", "./a.bin", "link.bin", "copy.bin"})
    EXPECT_THAT(find({"b.bin", "a.bin"}, {name}),
                ElementsAre(AllOf(HasSubstr("data.val has " + folder_.file(name)),
                                  HasSubstr("in common with data.train: held-out perplexity will be too good"))));
  EXPECT_THAT(find({"a.bin"}, {"link.bin"})[0], HasSubstr("(as " + folder_.file("a.bin") + ")"));
}

TEST_F(Overlaps, ACopyWithinASplitIsSaid) {
  EXPECT_THAT(find({"a.bin", "copy.bin"}, {"b.bin"}),
              ElementsAre(AllOf(HasSubstr("data.train holds the same tokens twice"), HasSubstr("copy.bin"))));
  EXPECT_THAT(find({"b.bin"}, {"a.bin", "copy.bin"}), ElementsAre(HasSubstr("data.val holds the same tokens twice")));
}

}  // namespace
}  // namespace qat

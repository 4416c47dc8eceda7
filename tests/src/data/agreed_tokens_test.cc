#include "src/data/agreed_tokens.h"

#include <gmock/gmock.h>

#include <mutex>

#include "dist/comm/agree.h"
#include "dist/comm/local_comm.h"
#include "src/data/data_identity.h"
#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TemporaryFolder;
using testing::write_shard;
using testing::write_text;

class AgreedTokens : public ::testing::Test {
 protected:
  // What each rank is started with.
  struct Start {
    std::vector<std::string> patterns;
    std::string host = "one";
  };
  // The identity on each rank.
  static std::vector<SplitIdentity> open(const std::vector<Start>& ranks, int vocab_size = 65536) {
    std::vector<SplitIdentity> all(ranks.size());
    dist::run_local_ranks(static_cast<int>(ranks.size()), [&](dist::Communicator& comm) {
      const auto rank = static_cast<std::size_t>(comm.rank());
      all[rank] =
          identity_of(open_agreed_tokens(ranks[rank].patterns, Split::kTrain, vocab_size, ranks[rank].host, comm));
    });
    return all;
  }
  // The words in which every rank refuses.
  static std::string refusal(const std::vector<Start>& ranks, ErrorKind kind = ErrorKind::kData,
                             int vocab_size = 65536) {
    std::mutex mutex;
    std::vector<std::string> messages;
    dist::run_local_ranks(static_cast<int>(ranks.size()), [&](dist::Communicator& comm) {
      const auto rank = static_cast<std::size_t>(comm.rank());
      try {
        (void)open_agreed_tokens(ranks[rank].patterns, Split::kTrain, vocab_size, ranks[rank].host, comm);
      } catch (const dist::AgreedError& error) {
        EXPECT_EQ(error.kind(), kind);
        const std::lock_guard lock(mutex);
        messages.emplace_back(error.what());
      }
    });
    EXPECT_EQ(messages.size(), ranks.size()) << "not all ranks refuse";
    if (messages.empty()) return "";
    EXPECT_THAT(messages, Each(messages[0]));
    return messages[0];
  }
  std::string shard(const std::string& name, const std::vector<int>& tokens) const {
    const std::string path = folder_.file(name);
    std::filesystem::create_directories(std::filesystem::path(path).parent_path());
    return write_shard(path, tokens);
  }

  const TemporaryFolder folder_;
};

// Bytes that this process has read from files so far.
std::int64_t bytes_read() {
  const std::string text = testing::read_text("/proc/self/io");
  return std::stoll(text.substr(text.find("rchar: ") + 7));
}

TEST_F(AgreedTokens, AreKnownOnEveryRankAndReadOncePerHost) {
  constexpr std::int64_t kShards = 6, kTokens = 200'000;
  for (int i = 0; i < kShards; ++i) shard("s" + std::to_string(i) + ".bin", std::vector<int>(kTokens, i));
  const std::vector<std::string> patterns = {folder_.file("s*.bin")};
  const auto cost = [&](const std::vector<Start>& ranks) {
    const std::int64_t before = bytes_read();
    const auto all = open(ranks);
    EXPECT_THAT(all, Each(all[0]));
    EXPECT_EQ(all[0].size(), static_cast<std::size_t>(kShards));
    for (int i = 0; i < kShards; ++i) EXPECT_EQ(all[0][static_cast<std::size_t>(i)].content.largest_id, i);
    return static_cast<double>(bytes_read() - before) / static_cast<double>(kShards * kTokens * 2);
  };
  EXPECT_NEAR(cost({{patterns}}), 1.0, 0.1);
  EXPECT_NEAR(cost({{patterns}, {patterns}, {patterns}, {patterns}}), 1.0, 0.1);
  EXPECT_NEAR(cost({{patterns, "one"}, {patterns, "two"}, {patterns, "one"}}), 2.0, 0.1);
}

TEST_F(AgreedTokens, MayLieInOtherFoldersOnOtherRanks) {
  const std::string a = shard("0/a.bin", {1, 2, 3}), b = shard("1/b.bin", {1, 2, 3});
  const auto all = open({{{a}}, {{b}}});
  EXPECT_EQ(all[0][0].content, all[1][0].content);
  EXPECT_NO_THROW((void)open({{{"builtin"}}, {{"builtin"}}}));
}

TEST_F(AgreedTokens, OfOtherContentAreRefusedByAllRanksAndTheRankIsNamed) {
  const std::string a = shard("0/a.bin", {1, 2, 3}), b = shard("1/a.bin", {1, 2, 4});  // one length
  EXPECT_THAT(
      refusal({{{a}}, {{a}}, {{b}}}),
      AllOf(HasSubstr("the training tokens are not the same on all ranks: rank 2 differs from rank 0"),
            HasSubstr("a.bin has other content: 3 tokens"), HasSubstr("on rank 0; 3 tokens"), HasSubstr("on rank 2")));
  const std::string c = shard("c.bin", {9});
  EXPECT_THAT(refusal({{{a}}, {{a, c}}, {{a, c}}, {{a}}}),
              AllOf(HasSubstr("ranks 1, 2 differ from rank 0"), HasSubstr("c.bin is there only on rank 1")));
  EXPECT_THAT(refusal({{{a, c}}, {{c, a}}}), HasSubstr("the order is another"));
}

TEST_F(AgreedTokens, AFaultIsNamedWithTheRanksThatSeeIt) {
  const std::string good = shard("good.bin", {1, 2, 3}), bad = shard("bad.bin", {1, 500, 3});
  const std::string all = refusal({{{good, bad}}, {{good, bad}}}, ErrorKind::kData, 400);
  EXPECT_THAT(all, AllOf(HasSubstr("bad.bin: at byte 1026"), HasSubstr("found 500"), HasSubstr("(on ranks 0, 1)")));
  EXPECT_THAT(refusal({{{good}}, {{bad}}, {{good}}, {{bad}}}, ErrorKind::kData, 400),
              AllOf(HasSubstr("ranks 1, 3: "), HasSubstr("bad.bin"), Not(HasSubstr("good.bin"))));
  EXPECT_THAT(refusal({{{good}}, {{folder_.file("none.bin")}}}),
              AllOf(HasSubstr("rank 1 only: "), HasSubstr("none.bin")));
  EXPECT_THAT(refusal({{{}}, {{}}}, ErrorKind::kConfig), HasSubstr("data.train is empty"));
}

}  // namespace
}  // namespace qat

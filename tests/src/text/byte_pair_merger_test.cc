#include "src/text/byte_pair_merger.h"

#include <gtest/gtest.h>

#include <chrono>

#include "tests/src/text/byte_pair_fixture.h"

namespace qat {
namespace {

using testing::random_text;
using testing::reference_merge;
using testing::train_merges;

std::vector<int> merge_short(const BytePairMerger& merger, std::string_view piece) {
  std::vector<int> out;
  merger.merge_short(piece, out);
  return out;
}

std::vector<int> merge_long(const BytePairMerger& merger, std::string_view piece) {
  std::vector<int> out;
  merger.merge_long(piece, out);
  return out;
}

TEST(BytePairMerger, MergesTheLowestRankFirstAndTheLeftmostOfEqualRanks) {
  const BytePairVocabulary v = parse_merges("a b\nb c\na a\nab ab\n", "merges");
  const BytePairMerger merger(v.merges);
  const int a = id_of_byte('a'), c = id_of_byte('c'), ab = 256, bc = 257, aa = 258, abab = 259;
  for (const auto& form : {merge_short, merge_long}) {
    EXPECT_EQ(form(merger, "abc"), (std::vector<int>{ab, c}));  // not a, bc: `a b` has the lower rank
    EXPECT_EQ(form(merger, "bc"), (std::vector<int>{bc}));
    EXPECT_EQ(form(merger, "aaa"), (std::vector<int>{aa, a}));
    EXPECT_EQ(form(merger, "ababab"), (std::vector<int>{abab, ab}));
    EXPECT_EQ(form(merger, "aab"), (std::vector<int>{a, ab}));
    EXPECT_EQ(form(merger, ""), std::vector<int>{});
    EXPECT_EQ(form(merger, "c"), std::vector<int>{c});
  }
}

TEST(BytePairMerger, BothFormsEqualTheAuthorsLoopOnRandomVocabulariesAndPieces) {
  std::mt19937 random(7);
  for (int round = 0; round < 40; ++round) {
    const std::string_view alphabet = round % 2 == 0 ? "ab" : "abcde";
    const BytePairVocabulary v = parse_merges(train_merges(random_text(random, alphabet, 300), 5 + round), "merges");
    const BytePairMerger merger(v.merges);
    for (int i = 0; i < 30; ++i) {
      const std::string piece = random_text(random, alphabet, random() % (BytePairMerger::kShortBytes + 1));
      const std::vector<int> expected = reference_merge(piece, v);
      EXPECT_EQ(merge_short(merger, piece), expected) << piece;
      EXPECT_EQ(merge_long(merger, piece), expected) << piece;
    }
    const std::string longer = random_text(random, alphabet, 400);
    EXPECT_EQ(merge_long(merger, longer), reference_merge(longer, v)) << longer;
  }
}

TEST(BytePairMerger, TimeOfOneVeryLongPieceIsNotQuadratic) {
  // 2 million bytes: a quadratic loop would take hours, the limit leaves room for a slow, busy machine.
  std::string file;
  for (std::string token = "a"; token.size() <= 64; token += token) file += token + " " + token + "\n";
  const BytePairVocabulary v = parse_merges(file, "merges");
  const BytePairMerger merger(v.merges);
  const std::string piece(2'000'000, 'a');
  const auto begin = std::chrono::steady_clock::now();
  std::vector<int> out;
  merger.merge(piece, out);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
  EXPECT_EQ(out.size(), 2'000'000U / 128);  // 15,625 tokens of 128 letters
}

}  // namespace
}  // namespace qat

#include "src/base/nearest.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace qat {
namespace {

TEST(EditDistance, CountsInsertionsDeletionsSubstitutionsAndSwaps) {
  EXPECT_EQ(edit_distance("", ""), 0);
  EXPECT_EQ(edit_distance("", "steps"), 5);
  EXPECT_EQ(edit_distance("stps", "steps"), 1);
  EXPECT_EQ(edit_distance("steeps", "steps"), 1);
  EXPECT_EQ(edit_distance("staps", "steps"), 1);
  EXPECT_EQ(edit_distance("setps", "steps"), 1);
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3);
  EXPECT_EQ(edit_distance("ca", "abc"), 3);  // optimal string alignment; unrestricted Damerau-Levenshtein has 2
}

TEST(EditDistance, IgnoresCaseAndTakesDashForUnderscore) { EXPECT_EQ(edit_distance("Batch-Size", "batch_size"), 0); }

TEST(Nearest, FindsTheClosestOfSeveralAndTheFirstOfEquals) {
  const std::vector<std::string> known = {"min_bits", "max_bits", "cycles", "cycle"};
  EXPECT_EQ(nearest("mac_bits", known), "max_bits");
  EXPECT_EQ(nearest("cyclez", known), "cycles");
  EXPECT_EQ(nearest("mbx_bits", known), "max_bits");
  EXPECT_EQ(nearest("mzx_bits", std::vector<std::string>{"mix_bits", "max_bits"}), "mix_bits");
}

TEST(Nearest, GivesNothingForWordsThatAreNotAlike) {
  const std::vector<std::string> known = {"steps", "batch_size"};
  EXPECT_EQ(nearest("temperature", known), std::nullopt);
  EXPECT_EQ(nearest("", known), std::nullopt);
  EXPECT_EQ(nearest("x", {}), std::nullopt);
  EXPECT_EQ(nearest("x", std::vector<std::string>{"r", "pp"}), std::nullopt);  // one edit, and nothing in common
}

TEST(Nearest, IsQuickForAWordOfMegabytes) {
  const std::string word(4 << 20, 'x');
  EXPECT_EQ(nearest(word, std::vector<std::string>(100, "batch_size")), std::nullopt);
}

}  // namespace
}  // namespace qat

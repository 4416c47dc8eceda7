#include "src/data/held_out.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <random>
#include <set>
#include <string>

namespace qat {
namespace {

using Sizes = std::vector<std::int64_t>;

// A letter a document: t trained on, T gives its tail, W held out whole.
std::string plan(const Sizes& bytes, double fraction) {
  std::string out;
  for (const HeldOut part : choose_held_out(bytes, fraction)) out += "tTW"[static_cast<int>(part)];
  return out;
}

std::size_t count(const std::string& plan, char letter) {
  return static_cast<std::size_t>(std::count(plan.begin(), plan.end(), letter));
}

double held_out_bytes(const Sizes& bytes, double fraction) {
  const std::vector<HeldOut> parts = choose_held_out(bytes, fraction);
  double held = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    const auto size = static_cast<double>(bytes[i]);
    held += parts[i] == HeldOut::kWhole ? size : parts[i] == HeldOut::kTail ? size * fraction : 0;
  }
  return held;
}

TEST(HeldOut, AFewDocumentsGiveTheirTails) {
  EXPECT_EQ(plan({}, 0.1), "");
  EXPECT_EQ(plan({1000}, 0.1), "T");
  EXPECT_EQ(plan({1000, 1000}, 0.1), "TT");
  EXPECT_EQ(plan(Sizes(9, 70), 0.1), "TTTTTTTTT");
  EXPECT_EQ(plan({5, 50, 500, 5000}, 0.1), "TTTT");
}

TEST(HeldOut, ManyDocumentsAreHeldOutWhole) {
  for (const std::int64_t size : {1, 3, 7, 1000, 12'345'679}) {  // a tenth of ten is one, however 0.1 rounds
    EXPECT_EQ(count(plan(Sizes(10, size), 0.1), 'W'), 1U) << size;
    EXPECT_EQ(count(plan(Sizes(10, size), 0.1), 't'), 9U) << size;
    EXPECT_EQ(count(plan(Sizes(20, size), 0.05), 'W'), 1U) << size;
    EXPECT_EQ(count(plan(Sizes(10, size), 0.9), 't'), 1U) << size;
  }
  EXPECT_EQ(count(plan(Sizes(300, 24), 0.1), 'W'), 30U);
  EXPECT_EQ(count(plan(Sizes(300, 24), 0.1), 'T'), 0U);
  EXPECT_EQ(count(plan({8, 8}, 0.5), 'W'), 1U);
}

TEST(HeldOut, LongDocumentsAmongManyShortOnesGiveTheirTails) {
  Sizes bytes(1000, 100);
  bytes.insert(bytes.begin() + 500, 50'000'000);
  const std::string parts = plan(bytes, 0.1);
  EXPECT_EQ(parts[500], 'T');
  EXPECT_EQ(count(parts, 'T'), 1U);
  EXPECT_EQ(count(parts, 'W'), 100U);
}

TEST(HeldOut, EmptyDocumentsGiveNothingAndChangeNothing) {
  EXPECT_EQ(plan({0, 0}, 0.1), "tt");
  EXPECT_EQ(plan({0, 1000, 0}, 0.1), "tTt");
  Sizes bytes(20, 5);
  const std::size_t whole = count(plan(bytes, 0.1), 'W');
  bytes.insert(bytes.begin(), 3, 0);
  EXPECT_EQ(count(plan(bytes, 0.1), 'W'), whole);
  EXPECT_EQ(plan(bytes, 0.1).substr(0, 3), "ttt");
}

TEST(HeldOut, NothingIsHeldOutAtZero) { EXPECT_EQ(plan(Sizes(50, 10), 0), std::string(50, 't')); }

TEST(HeldOut, WholeDocumentsAreSpreadOverTheCorpusAndFollowNoPeriod) {
  const std::string parts = plan(Sizes(1000, 64), 0.1);
  std::set<std::size_t> places;
  for (std::size_t ten = 0; ten < 1000; ten += 10) {
    EXPECT_LE(count(parts.substr(ten, 10), 'W'), 2U);
    for (std::size_t i = 0; i < 10; ++i) {
      if (parts[ten + i] == 'W') places.insert(i);
    }
  }
  for (std::size_t hundred = 0; hundred < 1000; hundred += 100) {
    EXPECT_NEAR(static_cast<double>(count(parts.substr(hundred, 100), 'W')), 10, 1);
  }
  EXPECT_GE(places.size(), 4U);
}

TEST(HeldOut, TheShareIsCloseToTheOneWantedAndSomethingIsAlwaysTrainedOn) {
  std::mt19937 random(17);
  for (int round = 0; round < 2000; ++round) {
    const double fraction = std::array{0.01, 0.05, 0.1, 0.2, 0.5, 0.9}[random() % 6];
    Sizes bytes(1 + random() % 400);
    for (std::int64_t& size : bytes) size = static_cast<std::int64_t>(random() % (1U << random() % 20));
    const double total = static_cast<double>(std::accumulate(bytes.begin(), bytes.end(), std::int64_t{0}));
    if (total == 0) continue;
    const std::string parts = plan(bytes, fraction);
    std::int64_t longest_short = 0, held = 0, short_bytes = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (parts[i] == 'T') continue;
      longest_short = std::max(longest_short, bytes[i]);
      short_bytes += bytes[i];
      held += parts[i] == 'W' ? bytes[i] : 0;
    }
    EXPECT_LE(std::abs(held_out_bytes(bytes, fraction) - fraction * total),
              0.75 * static_cast<double>(longest_short) + 1);
    if (short_bytes > 0) {
      EXPECT_GT(held, 0);
      EXPECT_LT(held, short_bytes);
    }
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      if (parts[i] == 'T') {
        EXPECT_GT(bytes[i], longest_short);
      }
    }
  }
}

// A corpus tokenized again must give the same split, on any machine and in any later version.
TEST(HeldOut, TheChoiceIsFixed) {
  EXPECT_EQ(plan(Sizes(40, 10), 0.1), "ttttWttttttttttWttttttttWttttttttWtttttt");
  EXPECT_EQ(plan({30, 10, 20, 5, 40, 10, 15, 25, 30, 10, 5, 35, 20, 10, 15, 20, 400}, 0.2), "tWtWtWtttWWtWtttT");
}

}  // namespace
}  // namespace qat

#include "src/data/builtin_questions.h"

#include <fmt/format.h>

#include <array>
#include <cstdint>
#include <numeric>
#include <string>
#include <utility>

#include "kernels/common/philox.h"

namespace qat {
namespace {

struct Thing {
  const char* name;
  std::array<const char*, 6> values;
};
constexpr std::array<Thing, 8> kThings = {{
    {"colour", {"green", "blue", "red", "yellow", "white", "brown"}},
    {"month", {"May", "June", "March", "April", "August", "October"}},
    {"metal", {"zinc", "iron", "gold", "silver", "copper", "lead"}},
    {"animal", {"a cat", "a dog", "a horse", "an owl", "an ant", "a fish"}},
    {"city", {"Rome", "Paris", "Oslo", "London", "Vienna", "Madrid"}},
    {"tool", {"a saw", "a hammer", "an axe", "a file", "a drill", "a knife"}},
    {"fruit", {"an apple", "a pear", "a plum", "a lemon", "a fig", "a cherry"}},
    {"number", {"seven", "twelve", "twenty", "three", "nine", "forty"}},
}};
constexpr std::size_t kThingsInAText = 4, kQuestionsOnAText = 4;

// Whole numbers in the order in which they are asked for.
class Draws {
 public:
  explicit Draws(Split split) : key_{.seed = 0, .stream = split == Split::kTrain ? kTrain : kVal} {}
  std::size_t below(std::size_t bound) {
    return static_cast<std::size_t>(kernels::philox(key_, count_++).v[0]) % bound;  // bound is tiny: no bias to see
  }

 private:
  // Streams of their own; never to change.
  static constexpr std::uint64_t kTrain = 0x7175657374696f6e, kVal = 0x68656c64206f7574;
  kernels::RngKey key_;
  std::uint64_t count_ = 0;
};

// 0 .. size - 1 in random order.
template <std::size_t size>
std::array<std::size_t, size> shuffled(Draws& draws) {
  std::array<std::size_t, size> order;
  std::iota(order.begin(), order.end(), 0);
  for (std::size_t i = size - 1; i > 0; --i) std::swap(order[i], order[draws.below(i + 1)]);
  return order;
}

void add_text(Draws& draws, SquadData& data) {
  const auto order = shuffled<kThings.size()>(draws);
  std::string text;
  std::array<ByteRange, kThings.size()> said{};  // of each thing; empty: not said
  for (std::size_t i = 0; i < kThingsInAText; ++i) {
    const Thing& thing = kThings[order[i]];
    text += fmt::format("{}The {} is ", i == 0 ? "" : " ", thing.name);
    const std::size_t begin = text.size();
    text += thing.values[draws.below(thing.values.size())];
    said[order[i]] = {begin, text.size()};
    text += '.';
  }
  const auto asked = shuffled<kThings.size()>(draws);
  const std::size_t context = data.contexts.size();
  data.contexts.push_back(std::move(text));
  for (std::size_t i = 0; i < kQuestionsOnAText; ++i) {
    // Mostly something that the text says.
    const std::size_t thing = draws.below(2) == 0 ? order[asked[i] % kThingsInAText] : asked[i];
    SquadQuestion question{.id = fmt::format("builtin-{}-{}", context, i),
                           .text = fmt::format("What is the {}?", kThings[thing].name),
                           .context = context,
                           .answers = {}};
    if (said[thing].size() > 0) question.answers.push_back(said[thing]);
    data.questions.push_back(std::move(question));
  }
}

}  // namespace

SquadData builtin_questions(Split split) {
  SquadData data;
  data.may_be_unanswerable = true;
  data.files.push_back(
      {fmt::format("built-in questions ({} part)", split == Split::kTrain ? "training" : "held-out"), 0});
  Draws draws(split);
  const int texts = split == Split::kTrain ? 500 : 50;
  for (int i = 0; i < texts; ++i) add_text(draws, data);
  return data;
}

}  // namespace qat

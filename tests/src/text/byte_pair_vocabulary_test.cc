#include "src/text/byte_pair_vocabulary.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

#include "kernels/common/error.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// The message of the data error that f throws; a test failure if it throws none.
template <typename F>
std::string data_error(F f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return {};
}

std::string merges_error(std::string_view content) {
  return data_error([&] { parse_merges(content, "m.txt"); });
}

const char kMerges[] = "#version: 0.2\nh e\nl l\nhe ll\n\xC4\xA0 o\n";

// vocab.json that belongs to kMerges.
std::string vocab_json() {
  std::string json = "{";
  const BytePairVocabulary v = parse_merges(kMerges, "m.txt");
  for (int id = 0; id < 256; ++id) {
    // The alphabet again, from its definition: printable Latin-1 as itself, the others from U+0100 on.
    const auto byte = static_cast<unsigned char>(v.tokens[static_cast<std::size_t>(id)][0]);
    const int character = id < 188 ? byte : 0x100 + id - 188;
    char entry[32];
    std::snprintf(entry, sizeof entry, "\"\\u%04x\": %d, ", character, id);
    json += entry;
  }
  return json + R"("he": 256, "ll": 257, "hell": 258, "Ġo": 259, "<|endoftext|>": 260})";
}

TEST(BytePairVocabulary, NumbersPrintableBytesFirstThenTheOthersThenMerges) {
  const BytePairVocabulary v = parse_merges(kMerges, "m.txt");
  EXPECT_EQ(id_of_byte('!'), 0);
  EXPECT_EQ(id_of_byte('A'), 32);
  EXPECT_EQ(id_of_byte('~'), 93);
  EXPECT_EQ(id_of_byte(0xA1), 94);
  EXPECT_EQ(id_of_byte(0xFF), 187);
  EXPECT_EQ(id_of_byte(0), 188);
  EXPECT_EQ(id_of_byte('\n'), 198);
  EXPECT_EQ(id_of_byte(' '), 220);
  EXPECT_EQ(id_of_byte(0xAD), 255);
  std::set<std::int32_t> ids;
  for (int byte = 0; byte < 256; ++byte) {
    const std::int32_t id = id_of_byte(static_cast<unsigned char>(byte));
    ids.insert(id);
    EXPECT_EQ(v.tokens[static_cast<std::size_t>(id)], std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(ids.size(), 256U);
  EXPECT_EQ(v.tokens[258], "hell");
  EXPECT_EQ(v.tokens[259], " o");
  EXPECT_EQ(v.end_of_text(), 260);
  EXPECT_EQ(v.size(), 261);
}

TEST(BytePairVocabulary, ReadsWindowsLineEndsAndAMissingLastLineEnd) {
  EXPECT_EQ(parse_merges("#version: 0.2\r\nh e\r\nhe l\r\n", "m.txt").tokens.back(), "hel");
  EXPECT_EQ(parse_merges("h e\nhe l", "m.txt").tokens.back(), "hel");
}

TEST(BytePairVocabulary, NamesTheLineOfABadMerge) {
  EXPECT_THAT(merges_error("h e\nhe\n"), AllOf(HasSubstr("m.txt: line 2"), HasSubstr("\"he\" is not a merge")));
  EXPECT_THAT(merges_error("h e l\n"), HasSubstr("line 1: \"h e l\" is not a merge"));
  EXPECT_THAT(merges_error("h \n"), HasSubstr("line 1"));
  EXPECT_THAT(merges_error("h e\n\nl l\n"), HasSubstr("line 2: the line is empty"));
  EXPECT_THAT(merges_error("#version: 0.2\nhe l\n"), HasSubstr("line 2: \"he\" is neither a byte nor made"));
  EXPECT_THAT(merges_error("h e\nl l\nh e\n"), HasSubstr("line 3: \"h e\" makes a token that merge 1 makes already"));
  EXPECT_THAT(merges_error("h \xE2\x82\xAC\n"), HasSubstr("line 1: \"\\xe2\\x82\\xac\" has a character"));
  EXPECT_THAT(merges_error(std::string_view("h \0\n", 4)), HasSubstr("\\x00"));
  EXPECT_THAT(merges_error("h \xC4"), HasSubstr("line 1"));
}

TEST(BytePairVocabulary, AcceptsTheVocabularyThatBelongsToTheMerges) {
  const BytePairVocabulary v = parse_merges(kMerges, "m.txt");
  EXPECT_NO_THROW(check_vocab_json(vocab_json(), "v.json", v));
}

TEST(BytePairVocabulary, RefusesAVocabularyThatDoesNotBelongToTheMerges) {
  const BytePairVocabulary v = parse_merges(kMerges, "m.txt");
  const auto error_with = [&](const std::string& from, const std::string& to) {
    std::string json = vocab_json();
    json.replace(json.find(from), from.size(), to);
    return data_error([&] { check_vocab_json(json, "v.json", v); });
  };
  EXPECT_THAT(error_with("\"he\": 256", "\"he\": 257"), HasSubstr("v.json: id 257 is \"he\""));
  EXPECT_THAT(error_with("\"he\": 256, ", ""), HasSubstr("no token has id 256"));
  EXPECT_THAT(error_with("\"he\": 256", "\"he\": 256, \"he\": 256"), HasSubstr("id 256 is given twice"));
  EXPECT_THAT(error_with("\"he\": 256", "\"he\": 999"), HasSubstr("\"he\" has id 999; the merges make ids 0 to 260"));
  EXPECT_THAT(error_with("\"he\": 256", "\"he\": -1"), HasSubstr("found the id -1"));
  EXPECT_THAT(error_with("\"he\": 256", "\"he\": [256]"), HasSubstr("found an array at the key \"he\""));
  EXPECT_THAT(error_with("<|endoftext|>", "<|end|>"), HasSubstr("id 260 is \"<|end|>\""));
  EXPECT_THAT(error_with("260}", "260"), HasSubstr("not JSON"));
  EXPECT_THAT(data_error([&] { check_vocab_json("7", "v.json", v); }), HasSubstr("found a number"));
  EXPECT_THAT(data_error([&] { check_vocab_json("", "v.json", v); }), HasSubstr("not JSON"));
  EXPECT_THAT(data_error([&] { check_vocab_json(std::string(1 << 20, '['), "v.json", v); }), HasSubstr("an array"));
}

TEST(BytePairVocabulary, NamesAFileThatCannotBeRead) {
  EXPECT_THAT(data_error([] { load_vocabulary("/nowhere/merges.txt", ""); }),
              AllOf(HasSubstr("/nowhere/merges.txt"), HasSubstr("No such file")));
  EXPECT_THAT(data_error([] { load_vocabulary("/usr", ""); }), AllOf(HasSubstr("/usr"), HasSubstr("directory")));
}

TEST(BytePairVocabulary, RandomDamageGivesADataErrorOrAVocabularyNeverACrash) {
  std::mt19937 random(11);
  const BytePairVocabulary v = parse_merges(kMerges, "m.txt");
  const std::string sources[] = {kMerges, vocab_json()};
  int refused = 0;
  for (int i = 0; i < 4000; ++i) {
    std::string damaged = sources[i % 2];
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
      const std::size_t at = random() % damaged.size();
      switch (random() % 3) {
        case 0:
          damaged[at] = static_cast<char>(random());
          break;
        case 1:
          damaged.erase(at, random() % 8);
          break;
        default:
          damaged.insert(at, 1 + random() % 4, static_cast<char>(random()));
      }
      if (damaged.empty()) damaged = "x";
    }
    try {
      if (i % 2 == 0) {
        const BytePairVocabulary parsed = parse_merges(damaged, "m.txt");
        EXPECT_EQ(parsed.tokens.size(), 256 + parsed.merges.size());
      } else {
        check_vocab_json(damaged, "v.json", v);
      }
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace qat

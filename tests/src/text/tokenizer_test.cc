#include "src/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "kernels/common/error.h"
#include "src/text/byte_pair_tokenizer.h"
#include "tests/src/text/byte_pair_fixture.h"

namespace qat {
namespace {

using ::testing::HasSubstr;

constexpr std::string_view kTrainingText =
    "it was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, it "
    "was the epoch of belief, it was the epoch of incredulity, it was the season of light";

// Pieces of merges.txt are written with U+0120 for the space.
std::string written_for_file(std::string text) {
  for (std::size_t at = text.find('_'); at != std::string::npos; at = text.find('_')) text.replace(at, 1, "\u0120");
  return text;
}

BytePairTokenizer tiny_tokenizer() {
  std::string text(kTrainingText);
  for (char& c : text) c = c == ' ' ? '_' : c;  // the trainer wants printable text without blanks
  return BytePairTokenizer(parse_merges(written_for_file(testing::train_merges(text, 60)), "merges"));
}

// Awkward bytes: reliability case 8.
std::vector<std::string> awkward_texts() {
  return {"",
          " ",
          "it was the best of times",
          "line\r\nline\rline\n\n\n",
          std::string("nul\0 \0\0x", 8),
          "emoji 🙂🚀 👨‍👩‍👧 x",
          "naïve 日本語 \u2003 \u00A0 ½²",
          "<|endoftext|>it<|endoftext|>",
          "broken \xFF\xFE \xC3 \xED\xA0\x80 \xF0\x9F utf-8",
          std::string(5000, 't') + std::string(5000, ' ') + std::string(500, '\xFF')};
}

TEST(Tokenizer, DecodeOfEncodeIsTheTextWhateverItsBytes) {
  const BytePairTokenizer pairs = tiny_tokenizer();
  const ByteTokenizer bytes;
  std::vector<std::string> texts = awkward_texts();
  std::mt19937 random(1);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (unsigned n = random() % 60; n > 0; --n) text.push_back(static_cast<char>(random()));
    texts.push_back(text);
  }
  for (const Tokenizer* tokenizer : {static_cast<const Tokenizer*>(&pairs), static_cast<const Tokenizer*>(&bytes)}) {
    for (const std::string& text : texts) {
      for (const bool allow_special : {false, true}) {
        const std::vector<int> ids = tokenizer->encode(text, {.allow_special = allow_special});
        EXPECT_EQ(tokenizer->decode(ids), text) << tokenizer->name();
        for (const int id : ids) EXPECT_TRUE(id >= 0 && id < tokenizer->vocab_size());
      }
    }
  }
}

TEST(Tokenizer, EndOfTextIsPlainTextUnlessSpecialTokensAreAllowed) {
  const ByteTokenizer bytes;
  EXPECT_EQ(bytes.encode("<|endoftext|>").size(), 13U);
  EXPECT_EQ(bytes.encode("a<|endoftext|>b<|endoftext|>", {.allow_special = true}),
            (std::vector<int>{'a', 256, 'b', 256}));
  EXPECT_EQ(bytes.encode("<|endoftext", {.allow_special = true}).size(), 11U);
  const BytePairTokenizer pairs = tiny_tokenizer();
  EXPECT_EQ(pairs.encode("<|endoftext|>", {.allow_special = true}), std::vector<int>{pairs.end_of_text()});
  EXPECT_THAT(pairs.encode("it <|endoftext|> it"), ::testing::Not(::testing::Contains(pairs.end_of_text())));
}

TEST(Tokenizer, EncodeToAppends) {
  std::vector<int> ids = {7};
  ByteTokenizer().encode_to("ab", ids);
  EXPECT_EQ(ids, (std::vector<int>{7, 'a', 'b'}));
}

TEST(Tokenizer, RefusesToDecodeAnIdBeyondTheVocabulary) {
  for (const int id : {-1, 257}) {
    try {
      ByteTokenizer().decode(std::vector<int>{65, id});
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData);
      EXPECT_THAT(error.what(), HasSubstr("token id " + std::to_string(id)));
    }
  }
}

TEST(Tokenizer, FactoryTakesByteAndGpt2AndNamesWhatIsMissing) {
  EXPECT_EQ(make_tokenizer("byte", "", "")->vocab_size(), 257);
  EXPECT_THROW(make_tokenizer("gpt2", "", ""), Error);
  EXPECT_THROW(make_tokenizer("byte", "merges.txt", ""), Error);
  try {
    make_tokenizer("llama", "", "");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    EXPECT_THAT(error.what(), HasSubstr("expected byte or gpt2"));
  }
}

TEST(BytePairTokenizer, EncodesEachPieceAsTheAuthorsLoopDoesAgainAndAgain) {
  const BytePairTokenizer tokenizer = tiny_tokenizer();
  std::string text(kTrainingText);
  std::string vocabulary_text = text;
  for (char& c : vocabulary_text) c = c == ' ' ? '_' : c;
  const BytePairVocabulary vocabulary =
      parse_merges(written_for_file(testing::train_merges(vocabulary_text, 60)), "merges");
  std::vector<int> expected;
  for (std::size_t begin = 0; begin < text.size();) {  // words, each with the space before it; commas alone
    std::size_t end = begin + 1;
    while (end < text.size() && text[begin] != ',' && text[end] != ' ' && text[end] != ',') ++end;
    const std::vector<int> ids =
        testing::reference_merge(std::string_view(text).substr(begin, end - begin), vocabulary);
    expected.insert(expected.end(), ids.begin(), ids.end());
    begin = end;
  }
  EXPECT_LT(expected.size(), text.size() * 3 / 4);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(tokenizer.encode(text), expected);  // later rounds come from the cache
}

TEST(BytePairTokenizer, CacheReplacementDoesNotChangeTheResult) {
  // 60,000 different words overflow the 32,768 places of the cache; every word is looked up twice.
  const BytePairTokenizer tokenizer = tiny_tokenizer();
  std::mt19937 random(2);
  std::string text;
  for (int i = 0; i < 60000; ++i)
    text.append(" ").append(testing::random_text(random, "thewasofimr", 1 + random() % 12));
  const std::vector<int> once = tokenizer.encode(text);
  EXPECT_EQ(tokenizer.encode(text), once);
  EXPECT_EQ(tokenizer.decode(once), text);
  std::vector<int> word_by_word;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find(' ', begin + 1), text.size());
    const std::vector<int> ids = tiny_tokenizer().encode(text.substr(begin, end - begin));
    word_by_word.insert(word_by_word.end(), ids.begin(), ids.end());
    begin = end;
    if (word_by_word.size() > 2000) break;  // a fresh tokenizer a word is slow; this many are enough
  }
  EXPECT_TRUE(std::equal(word_by_word.begin(), word_by_word.end(), once.begin()));
}

TEST(BytePairTokenizer, ThreadsMayShareOne) {
  const BytePairTokenizer tokenizer = tiny_tokenizer();
  std::mt19937 random(4);
  const std::string text = testing::random_text(random, "the was of, ", 200000);
  const std::vector<int> expected = tokenizer.encode(text);
  std::vector<std::vector<int>> results(4);
  {
    std::vector<std::jthread> threads;
    for (std::vector<int>& result : results) {
      threads.emplace_back([&] { result = tokenizer.encode(text); });
    }
  }
  for (const std::vector<int>& result : results) EXPECT_EQ(result, expected);
}

// GPT-2's own files are not part of this repository. With QAT_GPT2_DIR pointing at a folder that holds merges.txt and
// vocab.json (Hugging Face names), these run; gpt2_vectors.json comes from an independent implementation (tiktoken).
class Gpt2Files : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("QAT_GPT2_DIR");
    if (folder == nullptr) GTEST_SKIP() << "QAT_GPT2_DIR is not set";
    folder_ = folder;
  }
  std::string file(const char* name) const { return (folder_ / name).string(); }

  void expect_vectors(const Tokenizer& tokenizer, const std::filesystem::path& path) const {
    std::ifstream stream(path);
    ASSERT_TRUE(stream) << path;
    for (const auto& vector : nlohmann::json::parse(stream)) {
      const auto text = vector.at("text").get<std::string>();
      const auto ids = vector.at("ids").get<std::vector<int>>();
      EXPECT_EQ(tokenizer.encode(text), ids) << text.substr(0, 200);
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
  }

  std::filesystem::path folder_;
};

TEST_F(Gpt2Files, GiveTheIdsOfAnIndependentImplementation) {
  const BytePairTokenizer tokenizer = BytePairTokenizer::load(file("merges.txt"), file("vocab.json"));
  EXPECT_EQ(tokenizer.vocab_size(), 50257);
  EXPECT_EQ(tokenizer.end_of_text(), 50256);
  const char* source = std::getenv("QAT_TEST_SOURCE_DIR");
  expect_vectors(tokenizer,
                 std::filesystem::path(source == nullptr ? "." : source) / "tests/src/text/gpt2_vectors.json");
  for (const auto& entry : std::filesystem::directory_iterator(folder_)) {  // the user's own
    if (entry.path().filename().string().ends_with("vectors.json")) expect_vectors(tokenizer, entry.path());
  }
}

TEST_F(Gpt2Files, VocabularyFollowsFromTheMergesAlone) {
  const BytePairTokenizer with = BytePairTokenizer::load(file("merges.txt"), file("vocab.json"));
  const BytePairTokenizer without = BytePairTokenizer::load(file("merges.txt"));
  for (const std::string& text : awkward_texts()) EXPECT_EQ(with.encode(text), without.encode(text));
}

TEST_F(Gpt2Files, DecodeOfEncodeIsTheTextWhateverItsBytes) {
  const BytePairTokenizer tokenizer = BytePairTokenizer::load(file("merges.txt"));
  for (const std::string& text : awkward_texts()) EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
}

}  // namespace
}  // namespace qat

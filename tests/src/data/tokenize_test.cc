#include "src/data/tokenize.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <random>
#include <thread>

#include "src/data/document_reader.h"
#include "src/data/token_source.h"
#include "src/text/byte_pair_tokenizer.h"
#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using testing::error_message;
using ::testing::HasSubstr;
using testing::read_text;
using testing::TemporaryFolder;
using testing::write_text;

// With merges over spaces, letters and line ends, so that a wrong cut changes tokens.
constexpr const char* kMerges =
    "#version: 0.2\na b\nab a\n\u0120 ab\n\u0120 \u0120\n\u010A \u010A\nb a\n\u0120 \u0120\u0120\n";

std::vector<int> tokens_of(const std::vector<std::string>& files) {
  if (files.empty()) return {};
  const TokenSource source = open_tokens(files, Split::kTrain);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(source.total_tokens()));
  source.copy(0, ids);
  return ids;
}

std::string random_document(std::mt19937& random, std::size_t bytes, bool wide) {
  const std::vector<std::string> words = {"ab",  "abab", "a",    " ", "  ", "\n\n",
                                          " ab", "!",    "baba", "é", "語", "\u3000"};
  std::string text;
  while (text.size() < bytes) text += words[random() % (words.size() - (wide ? 0 : 3))];
  return text;
}

TEST(Tokenize, HoldsOutTheTailOfEveryDocumentAtAPieceAndBeginsEachWithEndOfText) {
  const TemporaryFolder folder;
  write_text(folder.file("1.txt"), "hello to the big world out there");
  write_text(folder.file("2.txt"), "second one");
  const TokenizeResult result =
      tokenize_files({.inputs = {folder.file("*.txt")}, .output_prefix = folder.file("out"), .val_fraction = 0.25});
  EXPECT_THAT(result.train_files, ElementsAre(folder.file("out_train_000.bin")));
  EXPECT_EQ(result.val_file, folder.file("out_val.bin"));
  const ByteTokenizer bytes;
  // 32 - 8 = 24 is inside " out"; the next place is before " there". "one" has none: cut at the character 10 - 2.
  EXPECT_EQ(bytes.decode(tokens_of(result.train_files)),
            "<|endoftext|>hello to the big world out<|endoftext|>second o");
  EXPECT_EQ(bytes.decode(tokens_of({result.val_file})), "<|endoftext|> there<|endoftext|>ne");
  EXPECT_EQ(result.documents, 2);
  EXPECT_EQ(result.bytes, 42);
  EXPECT_EQ(result.train_tokens, 26 + 8 + 2);
  EXPECT_EQ(result.val_tokens, 6 + 2 + 2);
  EXPECT_EQ(result.vocab_size, 257);
  EXPECT_GT(result.megabytes_per_second(), 0);
}

TEST(Tokenize, BlocksShardsAndTheHeldOutCutDoNotChangeTheTokens) {
  const TemporaryFolder folder;
  const std::string merges = write_text(folder.file("merges.txt"), kMerges);
  const BytePairTokenizer tokenizer = BytePairTokenizer::load(merges);
  std::mt19937 random(8);
  for (const bool wide : {false, true}) {
    const std::string text = random_document(random, 2 * DocumentReader::kBlockBytes + 12345, wide);
    write_text(folder.file("text"), text);
    const TokenizeResult result = tokenize_files({.inputs = {folder.file("text")},
                                                  .output_prefix = folder.file("out"),
                                                  .tokenizer = "gpt2",
                                                  .merges = merges,
                                                  .shard_tokens = 1'000'000,
                                                  .val_fraction = 0.3,
                                                  .overwrite = true});
    EXPECT_GT(result.train_files.size(), 2U);
    EXPECT_EQ(TokenFile::open(result.train_files[0]).tokens().size(), 1'000'000U);
    std::vector<int> joined = tokens_of(result.train_files);
    const std::vector<int> val = tokens_of({result.val_file});
    EXPECT_EQ(joined.front(), tokenizer.end_of_text());
    EXPECT_EQ(val.front(), tokenizer.end_of_text());
    joined.erase(joined.begin());
    joined.insert(joined.end(), val.begin() + 1, val.end());
    EXPECT_TRUE(joined == tokenizer.encode(text));  // not EXPECT_EQ: millions of ids in the message
    EXPECT_NEAR(static_cast<double>(tokenizer.decode(val).size()) / static_cast<double>(text.size()), 0.3, 0.001);
  }
}

TEST(Tokenize, ADocumentWithoutWhiteSpaceIsStillOnePiece) {
  const TemporaryFolder folder;
  const std::string merges = write_text(folder.file("merges.txt"), "a a\naa aa\naaaa aaaa\n");
  write_text(folder.file("text"), std::string(DocumentReader::kBlockBytes + 8, 'a'));
  const TokenizeResult result = tokenize_files({.inputs = {folder.file("text")},
                                                .output_prefix = folder.file("out"),
                                                .tokenizer = "gpt2",
                                                .merges = merges,
                                                .val_fraction = 0});
  EXPECT_EQ(result.train_tokens, 1 + static_cast<std::int64_t>(DocumentReader::kBlockBytes + 8) / 8);
  EXPECT_TRUE(result.val_file.empty());
}

TEST(Tokenize, ReadsAPipeLikeAFile) {
  const TemporaryFolder folder;
  const std::string pipe = folder.file("pipe"), text = "some words in a pipe, to be cut in two";
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const double fraction : {0.0, 0.25}) {
    std::jthread writer([&] { write_text(pipe, text); });
    const TokenizeResult from_pipe = tokenize_files(
        {.inputs = {pipe}, .output_prefix = folder.file("p"), .val_fraction = fraction, .overwrite = true});
    write_text(folder.file("file"), text);
    const TokenizeResult from_file = tokenize_files({.inputs = {folder.file("file")},
                                                     .output_prefix = folder.file("f"),
                                                     .val_fraction = fraction,
                                                     .overwrite = true});
    EXPECT_EQ(read_text(from_pipe.train_files[0]), read_text(from_file.train_files[0]));
    EXPECT_EQ(from_pipe.bytes, 38);
    EXPECT_EQ(from_pipe.val_file.empty(), fraction == 0);
    if (fraction > 0) {
      EXPECT_EQ(read_text(from_pipe.val_file), read_text(from_file.val_file));
    }
  }
}

TEST(Tokenize, SpecialTokensAreReadOnlyWhenAllowed) {
  const TemporaryFolder folder;
  write_text(folder.file("text"), "a<|endoftext|>b");
  TokenizeOptions options{.inputs = {folder.file("text")}, .output_prefix = folder.file("out"), .val_fraction = 0};
  EXPECT_EQ(tokenize_files(options).train_tokens, 16);
  options.overwrite = true;
  options.allow_special = true;
  EXPECT_THAT(tokens_of(tokenize_files(options).train_files), ElementsAre(256, 'a', 256, 'b'));
  write_text(folder.file("text"), "<|endoftext|>a<|endoftext|>");
  EXPECT_THAT(tokens_of(tokenize_files(options).train_files), ElementsAre(256, 'a', 256));
}

TEST(Tokenize, RefusesToReplaceShardsUnlessAllowedAndThenLeavesNoOldOnes) {
  const TemporaryFolder folder;
  write_text(folder.file("text"), "0123456789");
  TokenizeOptions options{
      .inputs = {folder.file("text")}, .output_prefix = folder.file("out"), .shard_tokens = 4, .val_fraction = 0.2};
  EXPECT_EQ(tokenize_files(options).train_files.size(), 3U);
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { tokenize_files(options); }),
              AllOf(HasSubstr("out_train_000.bin exists already"), HasSubstr("4 such files")));
  options.overwrite = true;
  options.shard_tokens = 100;
  options.val_fraction = 0;
  write_text(folder.file("out_train_notes.bin"), "not ours");
  EXPECT_EQ(tokenize_files(options).train_files.size(), 1U);
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path())) names.push_back(entry.path().filename());
  EXPECT_THAT(names, ::testing::UnorderedElementsAre("text", "out_train_000.bin", "out_train_notes.bin"));
}

TEST(Tokenize, FailsCleanlyAndLeavesNoFiles) {
  const TemporaryFolder folder;
  const std::string text = write_text(folder.file("text"), "words"), empty = write_text(folder.file("empty"), "");
  const auto message = [&](ErrorKind kind, TokenizeOptions options) {
    if (options.output_prefix.empty()) options.output_prefix = folder.file("out");
    return error_message(kind, [&] { tokenize_files(options); });
  };
  EXPECT_THAT(message(ErrorKind::kConfig, {}), HasSubstr("no input"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .shard_tokens = 0}),
              HasSubstr("expected 1 to 2147483647"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .val_fraction = 1.0}), HasSubstr("less than 1"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .tokenizer = "gpt2"}), HasSubstr("needs merges.txt"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text, folder.file("t*t")}}), HasSubstr("named twice"));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text, folder.file("none*")}}), HasSubstr("matches no file"));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {empty}}), HasSubstr("too little for a token"));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text}}), HasSubstr("too little for a held-out part"));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text, folder.path().string()}, .val_fraction = 0}),
              HasSubstr("directory"));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text}, .output_prefix = folder.file("no/such/out")}),
              HasSubstr("No such file"));
  const auto entries = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 2);
}

TEST(Tokenize, AVocabularyBeyondSixteenBitsIsRefused) {
  const TemporaryFolder folder;
  std::string merges;  // 65,536 merges of distinct pairs: 256 + 65,536 + 1 ids
  const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
  int count = 0;
  const auto add = [&](const std::string& left, const std::string& right) {
    merges.append(left).append(" ").append(right).append("\n");
    return ++count < 65'536;
  };
  for (const char a : letters) {
    for (const char b : letters) add(std::string(1, a), std::string(1, b));
  }
  for (const char a : letters) {
    for (const char b : letters) {
      for (const char c : letters) {
        if (count < 65'536) add(std::string{a, b}, std::string(1, c));
      }
    }
  }
  write_text(folder.file("merges.txt"), merges);
  const std::string text = write_text(folder.file("text"), "words");
  EXPECT_THAT(error_message(ErrorKind::kData,
                            [&] {
                              tokenize_files({.inputs = {text},
                                              .output_prefix = folder.file("out"),
                                              .tokenizer = "gpt2",
                                              .merges = folder.file("merges.txt")});
                            }),
              HasSubstr("the vocabulary has 65793 ids"));
}

}  // namespace
}  // namespace qat

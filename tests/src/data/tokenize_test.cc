#include "src/data/tokenize.h"

#include <gmock/gmock.h>
#include <sys/stat.h>

#include <array>
#include <random>
#include <set>
#include <thread>

#include "src/data/document_reader.h"
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
using testing::tokens_of;
using testing::write_text;

// With merges over spaces, letters and line ends, so that a wrong cut changes tokens.
constexpr const char* kMerges =
    "#version: 0.2\na b\nab a\n\u0120 ab\n\u0120 \u0120\n\u010A \u010A\nb a\n\u0120 \u0120\u0120\n";

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
    EXPECT_EQ(TokenFile(result.train_files[0]).tokens(), 1'000'000);
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

TEST(Tokenize, HoldsOutWholeDocumentsWhereThereAreMany) {
  const TemporaryFolder folder;
  std::set<std::string> texts;
  for (int i = 0; i < 300; ++i) {
    const std::string text = "Short note " + std::to_string(i) + ": it's fine.";
    write_text(folder.file("note" + std::to_string(1000 + i)), text);
    texts.insert(text);
  }
  write_text(folder.file("note9999"), std::string(100'000, 'x') + " the end of a long one");
  write_text(folder.file("note0000"), "");
  const TokenizeResult result = tokenize_files({.inputs = {folder.file("note*")}, .output_prefix = folder.file("out")});
  EXPECT_EQ(result.documents, 302);
  EXPECT_EQ(result.empty, 1);
  EXPECT_EQ(result.tails, 1);
  EXPECT_NEAR(static_cast<double>(result.held_out), 30, 1);
  EXPECT_NEAR(static_cast<double>(result.val_bytes) / static_cast<double>(result.bytes), 0.1, 0.001);

  // Every document is in one part, as it was.
  const ByteTokenizer bytes;
  const auto documents_in = [&](const std::vector<std::string>& files) {
    std::set<std::string> found;
    std::string text = bytes.decode(tokens_of(files)).substr(kEndOfText.size());
    for (std::size_t at = 0; at != std::string::npos;) {
      const std::size_t end = text.find(kEndOfText, at);
      found.insert(text.substr(at, end - at));
      at = end == std::string::npos ? end : end + kEndOfText.size();
    }
    return found;
  };
  std::set<std::string> held = documents_in({result.val_file}), trained = documents_in(result.train_files);
  EXPECT_EQ(std::erase_if(held, [](const std::string& text) { return text.ends_with("the end of a long one"); }), 1U);
  EXPECT_EQ(std::erase_if(trained, [](const std::string& text) { return text.starts_with("xxx"); }), 1U);
  EXPECT_EQ(static_cast<std::int64_t>(held.size()), result.held_out);
  trained.merge(held);
  EXPECT_TRUE(held.empty());
  EXPECT_EQ(trained, texts);
}

TEST(Tokenize, PipesAreDocumentsAmongOthers) {
  const TemporaryFolder folder;
  std::vector<std::string> inputs;
  for (int i = 0; i < 20; ++i) {
    inputs.push_back(write_text(folder.file("file" + std::to_string(10 + i)), "ten bytes."));
  }
  const TokenizeResult from_files = tokenize_files({.inputs = inputs, .output_prefix = folder.file("f")});
  EXPECT_EQ(from_files.held_out, 2);
  inputs[3] = folder.file("pipe");
  ASSERT_EQ(::mkfifo(inputs[3].c_str(), 0600), 0);
  std::jthread writer([&] { write_text(inputs[3], "ten bytes."); });
  const TokenizeResult from_pipe = tokenize_files({.inputs = inputs, .output_prefix = folder.file("p")});
  EXPECT_EQ(read_text(from_pipe.val_file), read_text(from_files.val_file));
  EXPECT_EQ(read_text(from_pipe.train_files[0]), read_text(from_files.train_files[0]));
}

TEST(Tokenize, PipesMayBeWrittenOneAfterTheOther) {
  const TemporaryFolder folder;
  const std::string first = folder.file("1"), second = folder.file("2");
  ASSERT_EQ(::mkfifo(first.c_str(), 0600), 0);
  ASSERT_EQ(::mkfifo(second.c_str(), 0600), 0);
  for (const double fraction : {0.0, 0.1}) {
    std::jthread writer([&] {  // more than a pipe holds: the second is opened when the first has been read
      write_text(first, std::string(300'000, 'a'));
      write_text(second, std::string(300'000, 'b'));
    });
    EXPECT_EQ(tokenize_files({.inputs = {first, second},
                              .output_prefix = folder.file("out"),
                              .val_fraction = fraction,
                              .overwrite = true})
                  .bytes,
              600'000);
  }
}

TEST(Tokenize, FilesThatSayTheyAreEmptyAndAreNotAreReadToTheirEnd) {
  const TemporaryFolder folder;
  const std::string text = read_text("/proc/version");
  ASSERT_FALSE(text.empty());
  for (const double fraction : {0.0, 0.2}) {
    EXPECT_EQ(tokenize_files({.inputs = {"/proc/version"},
                              .output_prefix = folder.file("out"),
                              .val_fraction = fraction,
                              .overwrite = true})
                  .bytes,
              static_cast<std::int64_t>(text.size()));
  }
}

TEST(Tokenize, TheCutOfATextWithSpecialTokensIsMadeBetweenDocuments) {
  const TemporaryFolder folder;
  std::string text;
  for (int i = 0; i < 200; ++i) text += "document number " + std::to_string(i) + " of one file<|endoftext|>";
  write_text(folder.file("text"), text);
  const TokenizeResult result =
      tokenize_files({.inputs = {folder.file("text")}, .output_prefix = folder.file("out"), .allow_special = true});
  const std::string held = ByteTokenizer().decode(tokens_of({result.val_file}));
  EXPECT_TRUE(held.starts_with("<|endoftext|>document number 18")) << held.substr(0, 40);
  EXPECT_NEAR(static_cast<double>(result.val_bytes) / static_cast<double>(result.bytes), 0.1, 0.01);

  // One at the very end separates nothing: cutting there would hold nothing out.
  write_text(folder.file("text"), "one document alone and its end<|endoftext|>");
  const TokenizeResult single = tokenize_files({.inputs = {folder.file("text")},
                                                .output_prefix = folder.file("single"),
                                                .val_fraction = 0.5,
                                                .allow_special = true});
  EXPECT_EQ(ByteTokenizer().decode(tokens_of({single.val_file})), "<|endoftext|> its end<|endoftext|>");
}

TEST(Tokenize, AByteOrderMarkIsTextAndIsCounted) {
  const TemporaryFolder folder;
  write_text(folder.file("1"), "\xEF\xBB\xBFmarked");
  write_text(folder.file("2"), "not marked, but here: \xEF\xBB\xBF");
  const TokenizeResult result = tokenize_files(
      {.inputs = {folder.file("1"), folder.file("2")}, .output_prefix = folder.file("out"), .val_fraction = 0});
  EXPECT_EQ(result.byte_order_marks, 1);
  EXPECT_EQ(ByteTokenizer().decode(tokens_of(result.train_files)),
            "<|endoftext|>\xEF\xBB\xBFmarked<|endoftext|>not marked, but here: \xEF\xBB\xBF");
}

}  // namespace
}  // namespace qat

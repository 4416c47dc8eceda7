// What tokenizing refuses, and what it leaves behind then: nothing.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include <thread>

#include "src/data/tokenize.h"
#include "src/text/byte_pair_tokenizer.h"
#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using ::testing::AllOf;
using testing::error_message;
using ::testing::HasSubstr;
using testing::read_text;
using testing::TemporaryFolder;
using testing::tokens_of;
using testing::write_text;

TEST(Tokenize, RefusesWhatIsNoTextAllAtOnceUnlessAskedForIt) {
  const TemporaryFolder folder;
  const std::string zipped("\x1F\x8B\x08\0\0\0\0\0\0\x03", 10), latin = "caf\xE9 cr\xE8me";
  write_text(folder.file("1 ok.txt"), "words of plain text");
  write_text(folder.file("2.gz"), zipped);
  write_text(folder.file("3 it's.txt"), latin);
  TokenizeOptions options{.inputs = {folder.file("?*")}, .output_prefix = folder.file("new/out"), .val_fraction = 0};
  EXPECT_THAT(
      error_message(ErrorKind::kData, [&] { tokenize_files(options); }),
      AllOf(HasSubstr("2 of 3 inputs are not UTF-8 text"), HasSubstr("2.gz looks like gzip data: `zcat '"),
            HasSubstr("2.gz' | qat_dist tokenize - ...`"), HasSubstr("3 it's.txt has 2 bytes of 10 that are not UTF-8"),
            HasSubstr("3 it'\\''s.txt' |"), HasSubstr("--allow-binary")));
  EXPECT_FALSE(std::filesystem::exists(folder.file("new")));
  for (int i = 0; i < 30; ++i) write_text(folder.file("more" + std::to_string(i)), zipped);
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { tokenize_files(options); }),
              AllOf(HasSubstr("32 of 33 inputs"), HasSubstr("... and 22 more")));
  options.inputs = {folder.file("2.gz"), folder.file("3 it's.txt")};
  options.allow_binary = true;
  EXPECT_EQ(ByteTokenizer().decode(tokens_of(tokenize_files(options).train_files)),
            "<|endoftext|>" + zipped + "<|endoftext|>" + latin);
}

TEST(Tokenize, RefusesWhatIsNoTextInAPipe) {
  const TemporaryFolder folder;
  const std::string pipe = folder.file("pipe");
  ASSERT_EQ(::mkfifo(pipe.c_str(), 0600), 0);
  for (const double fraction : {0.0, 0.1}) {
    // The first is known by its first bytes, the second by all of them.
    for (const std::string& content :
         {std::string("\x1F\x8B\x08 and so on"), std::string(5000, 'a') + std::string(60, '\xE9')}) {
      std::jthread writer([&] { write_text(pipe, content); });
      EXPECT_THAT(
          error_message(ErrorKind::kData,
                        [&] {
                          tokenize_files(
                              {.inputs = {pipe}, .output_prefix = folder.file("out"), .val_fraction = fraction});
                        }),
          AllOf(HasSubstr("pipe"), HasSubstr(content[0] == 'a' ? "60 bytes of 5060" : "gzip")));
    }
  }
  const auto entries = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 1);
}

TEST(Tokenize, MakesTheFolderOfTheOutput) {
  const TemporaryFolder folder;
  write_text(folder.file("text"), "words and more words");
  EXPECT_EQ(tokenize_files({.inputs = {folder.file("text")}, .output_prefix = folder.file("new/folder/out")}).val_file,
            folder.file("new/folder/out_val.bin"));
}

TEST(Tokenize, FailsCleanlyAndLeavesNoFiles) {
  const TemporaryFolder folder;
  const std::string text = write_text(folder.file("text"), "words"), empty = write_text(folder.file("empty"), "");
  std::filesystem::create_symlink(text, folder.file("link"));
  const auto message = [&](ErrorKind kind, TokenizeOptions options) {
    if (options.output_prefix.empty()) options.output_prefix = folder.file("made/for/out");
    return error_message(kind, [&] { tokenize_files(options); });
  };
  EXPECT_THAT(message(ErrorKind::kConfig, {}), HasSubstr("no input"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .shard_tokens = 0}),
              HasSubstr("expected 1 to 2147483647"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .val_fraction = 1.0}), HasSubstr("less than 1"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .tokenizer = "gpt2"}), HasSubstr("needs merges.txt"));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text}, .tokenizer = "gpt2", .merges = folder.file("none")}),
              HasSubstr("none"));
  for (const char* prefix : {"data/", "some/..", "."}) {
    EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .output_prefix = prefix}), HasSubstr("names no file"));
  }
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text, folder.file("t*t")}}),
              AllOf(HasSubstr("may be read once"), HasSubstr("text is named twice")));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text, folder.file("./text"), folder.file("link")}}),
              AllOf(HasSubstr("./text are the same file"), HasSubstr("link are the same file")));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text, folder.file("none*"), folder.path(), folder.file("gone")}}),
              AllOf(HasSubstr("3 of the inputs cannot be read"), HasSubstr("none*\" matches no file"),
                    HasSubstr("a folder; name the files in it, such as"), HasSubstr("gone\" matches no file")));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {empty}}), HasSubstr("too little for a token"));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text}}), HasSubstr("too little for a held-out part"));
  EXPECT_THAT(message(ErrorKind::kConfig, {.inputs = {text}, .output_prefix = folder.file("text/out")}),
              AllOf(HasSubstr("the output's folder is"), HasSubstr("text is not a folder")));
  EXPECT_THAT(message(ErrorKind::kData, {.inputs = {text}, .output_prefix = folder.file(std::string(250, 'n'))}),
              HasSubstr("File name too long"));
  const auto entries = std::filesystem::directory_iterator(folder.path());
  EXPECT_EQ(std::distance(begin(entries), end(entries)), 3);
}

TEST(Tokenize, RefusesToWriteOverItsInputAndOverFolders) {
  const TemporaryFolder folder;
  const std::string own = write_text(folder.file("out_val.bin"), "text under the name of a shard");
  TokenizeOptions options{.inputs = {folder.file("*")}, .output_prefix = folder.file("out"), .overwrite = true};
  EXPECT_THAT(error_message(ErrorKind::kConfig, [&] { tokenize_files(options); }),
              AllOf(HasSubstr("inputs that the output would replace"), HasSubstr("out_val.bin")));
  EXPECT_EQ(read_text(own), "text under the name of a shard");
  std::filesystem::create_directory(folder.file("out_train_000.bin"));
  options.inputs = {own};
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { tokenize_files(options); }),
              HasSubstr("out_train_000.bin is a folder"));
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

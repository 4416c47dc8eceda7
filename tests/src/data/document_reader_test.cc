#include "src/data/document_reader.h"

#include <gmock/gmock.h>

#include "tests/src/data/data_fixture.h"

namespace qat {
namespace {

using testing::error_message;
using ::testing::HasSubstr;
using testing::TemporaryFolder;
using testing::write_text;

std::string all_of(DocumentReader& document) {
  std::string text;
  document.read_to(-1, [&](std::string_view block) { text += block; });
  return text;
}

TEST(DocumentReader, ReadsAsMuchAsTheFileHadBeforeItGrew) {
  const TemporaryFolder folder;
  write_text(folder.file("log"), "as it was, and more since");
  DocumentReader grown(folder.file("log"), 9);
  EXPECT_EQ(grown.size(), 9);
  EXPECT_EQ(all_of(grown), "as it was");
  DocumentReader open(folder.file("log"));  // grows after it is opened
  std::ofstream(folder.file("log"), std::ios::app) << " and more";
  EXPECT_EQ(all_of(open), "as it was, and more since");
}

TEST(DocumentReader, RefusesAFileThatHasBecomeShorter) {
  const TemporaryFolder folder;
  write_text(folder.file("text"), "short");
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { DocumentReader(folder.file("text"), 9); }),
              HasSubstr("text became shorter"));
  DocumentReader open(folder.file("text"));
  write_text(folder.file("text"), "sh");
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { all_of(open); }), HasSubstr("text became shorter"));
  EXPECT_THAT(error_message(ErrorKind::kData, [&] { open.scan([](std::string_view) {}); }),
              HasSubstr("text became shorter"));
}

TEST(DocumentReader, ScanLeavesTheReadingAtTheBeginning) {
  const TemporaryFolder folder;
  const std::string text = std::string(DocumentReader::kBlockBytes, 'a') + " and a tail";
  DocumentReader document(write_text(folder.file("text"), text));
  std::string scanned;
  document.scan([&](std::string_view block) { scanned += block; });
  EXPECT_TRUE(scanned == text);
  EXPECT_TRUE(all_of(document) == text);
}

TEST(DocumentReader, TheHeldOutPartBeginsAtASeparatorAtWhiteSpaceOrAtACharacter) {
  const TemporaryFolder folder;
  const auto held_out = [&](const std::string& text, double fraction, std::string_view separator = "") {
    const DocumentReader document(write_text(folder.file("text"), text));
    return text.substr(static_cast<std::size_t>(document.held_out_begin(fraction, separator)));
  };
  EXPECT_EQ(held_out("", 0.5), "");
  EXPECT_EQ(held_out("aaaa bbbb cccc dddd", 0.53), " cccc dddd");
  EXPECT_EQ(held_out("aaaa bbbb cccc ddd\n", 0.1), "\n");
  EXPECT_EQ(held_out("aaaaaaaaaaaaaaa bbb\n", 0.2), "bbb\n");  // no white space in the first half of these: a character
  EXPECT_EQ(held_out("日本語日本語", 0.5), "日本語");
  EXPECT_EQ(held_out("日本語日本語", 0.4), "本語");  // byte 11 is inside a character, the next one begins at 12
  EXPECT_EQ(held_out("\u3000 a\u3000 b\u3000 c", 0.3), " c");  // never between white space and white space
  EXPECT_EQ(held_out("one text|two text|three text|four", 0.5, "|"), "|three text|four");
  EXPECT_EQ(held_out("one text--two text--three", 0.46, "--"), "--three");
  EXPECT_EQ(held_out("one text--two text--three", 0.26, "--"), "--three");  // byte 19 is inside it
  EXPECT_EQ(held_out("|one text of words and its end|", 0.5, "|"), " and its end|");
}

}  // namespace
}  // namespace qat

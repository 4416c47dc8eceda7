#include "src/data/text_check.h"

#include <gmock/gmock.h>

#include <array>
#include <random>
#include <string>

namespace qat {
namespace {

using ::testing::HasSubstr;

std::optional<NotText> verdict(std::string_view bytes, std::size_t block = 1 << 20) {
  TextCheck check;
  for (std::size_t at = 0; at < bytes.size(); at += block) check.feed(bytes.substr(at, block));
  return check.verdict();
}

std::string what(std::string_view bytes) {
  const auto found = verdict(bytes);
  return found ? found->what : "text";
}

std::string filter(std::string_view bytes) {
  const auto found = verdict(bytes);
  return found ? found->filter : "text";
}

// ASCII as UTF-16 or UTF-32 of either byte order: `bytes` a character, the character itself at `place`.
std::string widened(std::string_view text, std::size_t bytes, std::size_t place) {
  std::string out(text.size() * bytes, '\0');
  for (std::size_t i = 0; i < text.size(); ++i) out[i * bytes + place] = text[i];
  return out;
}

TEST(TextCheck, Utf8IsTextWhateverItSays) {
  EXPECT_EQ(what(""), "text");
  EXPECT_EQ(what("plain\r\nwords\n"), "text");
  EXPECT_EQ(what("naïve 日本語 🙂 \u2028\u0001\u001B[0m\x7F"), "text");
  EXPECT_EQ(what("\xEF\xBB\xBFwith a byte order mark"), "text");
  EXPECT_EQ(what("BZh and PK and GIF and %PDF and PAR1 in words"), "text");
}

TEST(TextCheck, KnownKindsOfFilesAreNamedWithTheirRemedy) {
  EXPECT_EQ(what("\x1F\x8B\x08"), "looks like gzip data");
  EXPECT_EQ(filter("\x1F\x8B\x08"), "zcat");
  EXPECT_EQ(filter("\xFD"
                   "7zXZ rest"),
            "xzcat");
  EXPECT_EQ(filter("\x28\xB5\x2F\xFD rest"), "zstdcat");
  EXPECT_EQ(filter("BZh91AY&SY rest"), "bzcat");
  EXPECT_THAT(what("PK\x03\x04 rest"), HasSubstr("zip archive"));
  EXPECT_THAT(what("%PDF-1.7\n"), HasSubstr("PDF"));
  EXPECT_THAT(what(std::string(257, 'n') + "ustar  "), HasSubstr("tar archive"));
  EXPECT_THAT(what(std::string("\x88\xD8\x34\x01\x01\0\0\0\x05\0\0\0", 12)), HasSubstr("token shard"));
  EXPECT_THAT(verdict("%PDF-1.7\n")->advice, HasSubstr("pdftotext"));
}

TEST(TextCheck, Utf16AndUtf32AreKnownByTheirMarkOrTheirZeros) {
  const std::string text = "Some words, and a line.\n";
  EXPECT_EQ(filter("\xFF\xFE" + widened(text, 2, 0)), "iconv -f UTF-16 -t UTF-8");
  EXPECT_EQ(filter("\xFE\xFF" + widened(text, 2, 1)), "iconv -f UTF-16 -t UTF-8");
  EXPECT_EQ(what(std::string("\xFF\xFE\0\0", 4) + widened(text, 4, 0)), "looks like UTF-32 text");
  EXPECT_EQ(what(std::string("\0\0\xFE\xFF", 4) + widened(text, 4, 3)), "looks like UTF-32 text");
  EXPECT_EQ(filter(widened(text, 2, 0)), "iconv -f UTF-16LE -t UTF-8");
  EXPECT_EQ(filter(widened(text, 2, 1)), "iconv -f UTF-16BE -t UTF-8");
  EXPECT_EQ(filter(widened(text, 4, 0)), "iconv -f UTF-32LE -t UTF-8");
  EXPECT_EQ(filter(widened(text, 4, 3)), "iconv -f UTF-32BE -t UTF-8");
  std::string russian;  // all bytes are below 0x80; only spaces have a zero
  for (int i = 0; i < 40; ++i) russian += std::string("\x34\x04\x30\x04\x3C\x04\x30\x04 \0", 10);
  EXPECT_EQ(filter(russian), "iconv -f UTF-16LE -t UTF-8");
}

TEST(TextCheck, NulsAreTextUnlessTheyAreMost) {
  EXPECT_EQ(what(std::string("a\0b", 3)), "text");
  EXPECT_EQ(what(std::string(5, '\0')), "text");
  std::string list;  // as `find -print0` makes them
  for (int i = 0; i < 500; ++i) list += "./folder/file" + std::to_string(i * i) + std::string(1, '\0');
  EXPECT_EQ(what(list), "text");
  EXPECT_THAT(what(std::string(5000, '\0')), HasSubstr("100.0 % of its bytes are zero"));
  EXPECT_THAT(what("a log, and then the end of a file that was never written" + std::string(5000, '\0')),
              HasSubstr("zero"));
}

TEST(TextCheck, MoreThanOnePercentOfBrokenUtf8IsNoText) {
  std::string text(10'000, 'a');
  for (std::size_t i = 0; i < 100; ++i) text[i * 97] = '\xE9';
  EXPECT_EQ(what(text), "text");
  text[9'999] = '\xE9';
  EXPECT_THAT(what(text), HasSubstr("101 bytes of 10000 that are not UTF-8 (1.0 %, the first at byte 0)"));
  EXPECT_THAT(what("caf\xE9 cr\xE8me"), HasSubstr("2 bytes of 10 that are not UTF-8 (20.0 %, the first at byte 3)"));
  EXPECT_THAT(filter("caf\xE9 cr\xE8me"), HasSubstr("iconv"));
  EXPECT_THAT(what("cut in a character: \xE6\x97"), HasSubstr("2 bytes of 22"));
}

TEST(TextCheck, BlocksDoNotChangeTheVerdict) {
  std::mt19937 random(23);
  for (int i = 0; i < 300; ++i) {
    std::string text;
    while (text.size() < 2000) {
      text += std::array{
          "word ", "é", "日本", "🙂", "\xFF", "\xE6\x97", "plain letters to dilute the broken ones "}[random() % 7];
    }
    const auto whole = verdict(text);
    for (const std::size_t block : {1U, 2U, 3U, 5U, 64U}) {
      const auto parts = verdict(text, block);
      ASSERT_EQ(whole.has_value(), parts.has_value());
      if (whole) {
        ASSERT_EQ(whole->what, parts->what);
      }
    }
  }
}

TEST(TextCheck, TheBeginningAloneTellsAKnownKind) {
  TextCheck archive;
  archive.feed("\x1F\x8B\x08 and so on");
  EXPECT_TRUE(archive.starts_as().has_value());
  TextCheck latin;
  latin.feed("\xE9\xE8\xE0");  // the whole document must say
  EXPECT_FALSE(latin.starts_as().has_value());
  EXPECT_TRUE(latin.verdict().has_value());
}

}  // namespace
}  // namespace qat

#include "src/text/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace qat {
namespace {

TEST(Utf8, CharactersFollowRfc3629) {
  const auto expect = [](std::string_view text, char32_t value, std::size_t length) {
    const Utf8Character c = first_character(text);
    EXPECT_EQ(c.length, length) << text;
    EXPECT_EQ(c.value, value) << text;
  };
  expect("a", 'a', 1);
  expect(std::string_view("\0", 1), 0, 1);
  expect("\xC2\x80", 0x80, 2);
  expect("\xE0\xA0\x80z", 0x800, 3);
  expect("\xED\x9F\xBF", 0xD7FF, 3);
  expect("\xEF\xBB\xBF", 0xFEFF, 3);
  expect("\xF0\x90\x80\x80", 0x10000, 4);
  expect("\xF4\x8F\xBF\xBF", 0x10FFFF, 4);
  for (const char* bad : {"", "\x80", "\xC1\xBF", "\xC2", "\xC2z", "\xE0\x9F\xBF", "\xED\xA0\x80", "\xE1\x80",
                          "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xF1\x80\x80", "\xFF"}) {
    EXPECT_EQ(first_character(bad).length, 0U) << bad;
  }
}

TEST(Utf8, ARunEndsAtTheFirstByteThatBelongsToNoCharacter) {
  EXPECT_EQ(utf8_run_end("", 0), 0U);
  EXPECT_EQ(utf8_run_end("plain letters é 語 🙂", 0), std::string_view("plain letters é 語 🙂").size());
  EXPECT_EQ(utf8_run_end("plain letters \xFF and more", 0), 14U);
  EXPECT_EQ(utf8_run_end("\xFFplain letters \xE3\x80", 1), 15U);
  EXPECT_EQ(utf8_run_end("\xFF", 0), 0U);
}

}  // namespace
}  // namespace qat

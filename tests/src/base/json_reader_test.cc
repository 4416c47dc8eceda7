#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <string>

#include "src/base/json.h"
#include "tests/support/comma_locale.h"

namespace qat {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string error_of(std::string_view text) {
  try {
    parse_json(text, "a.json");
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

TEST(ParseJson, ReadsEveryTypeWithItsLine) {
  const Value root = parse_json(R"({
  "null": null, "yes": true,
  // a comment, "not": "read"
  "whole": -7,
  "real": 0.25
  ,
  /* two
     lines */ "text": "a\nb\u00e9",
  "list": [1,
    2
  ],
  "deep": {
    "x": 1e3
  }
})",
                                "a.json");
  EXPECT_EQ(root.where(), "a.json:1");
  EXPECT_TRUE(root.at("null").is_null());
  EXPECT_TRUE(root.at("yes").as_bool());
  EXPECT_EQ(root.at("whole").as_int(), -7);
  EXPECT_EQ(root.at("whole").where(), "a.json:4");
  EXPECT_EQ(root.at("real").as_double(), 0.25);
  EXPECT_EQ(root.at("real").line(), 5);  // the reader looks at the newline to find a number's end
  EXPECT_EQ(root.at("text").as_string(), "a\nb\xC3\xA9");
  EXPECT_EQ(root.at("text").line(), 8);
  EXPECT_EQ(root.at("list").line(), 9);
  EXPECT_EQ(root.at("list").as_array()[1].line(), 10);
  EXPECT_EQ(root.at("deep").at("x").as_double(), 1000.0);
  EXPECT_EQ(root.at("deep").as_object()[0].line, 13);
  EXPECT_EQ(root.as_object()[2].key, "whole");
  EXPECT_EQ(root.as_object()[2].line, 4);
}

TEST(ParseJson, ReadsANumberThatEndsTheText) {
  EXPECT_EQ(parse_json("12", "x").as_int(), 12);
  EXPECT_EQ(parse_json("-0.5", "x").as_double(), -0.5);
  EXPECT_EQ(parse_json("1.5e-3\n", "x").as_double(), 1.5e-3);
}

TEST(ParseJson, KeepsTheExtremesOfNumbers) {
  EXPECT_EQ(parse_json("9223372036854775807", "x").as_int(), INT64_MAX);
  EXPECT_EQ(parse_json("-9223372036854775808", "x").as_int(), INT64_MIN);
  EXPECT_FALSE(parse_json("9223372036854775808", "x").is_int());
  EXPECT_EQ(parse_json("1e-400", "x").as_double(), 0.0);
  EXPECT_EQ(parse_json("5e-324", "x").as_double(), 5e-324);
  EXPECT_THAT(error_of("[1,\n 1e999]"), StartsWith("a.json:2:"));
}

TEST(ParseJson, SyntaxErrorsNameFileLineAndColumn) {
  EXPECT_THAT(error_of("{\n  \"a\": 1,\n  \"b\" 2\n}"), StartsWith("a.json:3:7: syntax error"));
  EXPECT_THAT(error_of("{\"a\": 1,}"), StartsWith("a.json:1:9: "));
  EXPECT_THAT(error_of("{\"a\": tru}"), StartsWith("a.json:1:10: "));
  EXPECT_THAT(error_of("{\"\xC3\xA9\xC3\xA9\": tru}"), StartsWith("a.json:1:11: "));  // columns are characters
  EXPECT_THAT(error_of("[1\n2]"), StartsWith("a.json:2:1: "));
  EXPECT_THAT(error_of("{\n"), HasSubstr("a.json:2:1: "));
  for (const char* empty : {"", " \n\t"}) EXPECT_THAT(error_of(empty), HasSubstr("is empty"));
  for (const std::string& wide : {std::string("\xFF\xFE{\0}\0", 6), std::string("\0{\0}", 4)})
    EXPECT_THAT(error_of(wide), HasSubstr("looks like UTF-16"));
  EXPECT_THAT(error_of("{\"a\": 1 \"bcd\": 2}"), StartsWith("a.json:1:9: "));
  EXPECT_THAT(error_of("{} x"), StartsWith("a.json:1:4: "));
  EXPECT_THAT(error_of("\"a\nb\""), StartsWith("a.json:1:3: "));
  EXPECT_THAT(error_of("\"\xFF\""), StartsWith("a.json:1:2: "));
}

TEST(ParseJson, ErrorMessagesStayPrintableAndShort) {
  std::string text(100000, 'x');
  text.front() = '"';
  text.back() = '\xFF';
  const std::string message = error_of(text);
  EXPECT_LT(message.size(), 400U);
  EXPECT_TRUE(is_utf8(message));
}

TEST(ParseJson, RepeatedKeysAreErrorsAndAllAreNamed) {
  const std::string text = "{\"a\": 1,\n \"b\": {\"c\": 1, \"c\": 2},\n \"a\": 2}";
  EXPECT_EQ(error_of(text),
            "a.json:2: the key \"c\" appears twice in one object\na.json:3: the key \"a\" appears twice in one object");
  std::vector<std::string> duplicates;
  const Value root = parse_json(text, "a.json", ErrorKind::kConfig, &duplicates);
  EXPECT_EQ(duplicates.size(), 2U);
  EXPECT_EQ(root.at("a").as_int(), 1);
  EXPECT_EQ(root.as_object().size(), 2U);
}

TEST(ParseJson, RefusesDeepNestingInsteadOfOverflowingTheStack) {
  EXPECT_THAT(error_of(std::string(1000000, '[')), HasSubstr("a.json:1:65: more than 64 nested"));
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_THAT(error_of(objects), HasSubstr("more than 64 nested"));
  EXPECT_EQ(error_of(std::string(64, '[') + std::string(64, ']')), "");
}

TEST(ParseJson, ErrorsAreOfTheKindAskedFor) {
  try {
    parse_json("{", "tokens.json", ErrorKind::kData);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
  }
  try {
    parse_json("{\"a\": \"x\"}", "tokens.json", ErrorKind::kData).at("a").as_int();
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_STREQ(error.what(), "tokens.json:1: expected an integer, found \"x\"");
  }
}

TEST(ParseJson, NumbersDoNotDependOnTheLocale) {
  const testing::CommaLocale comma;
  const Value root = parse_json("[1234567, 0.125, -1.5e-3]", "x");
  EXPECT_EQ(root.as_array()[1].as_double(), 0.125);
  EXPECT_EQ(root.as_array()[2].as_double(), -1.5e-3);
  EXPECT_EQ(to_json(root), "[1234567,0.125,-0.0015]");
}

TEST(ParseJson, TruncatedAndMutatedTextsGiveValuesOrErrorsOfTheirKind) {
  const std::string text =
      "{\"version\": 1, // c\n \"a\": {\"b\": [1, -2.5e3, \"x\\u00e9\\n\", null, true]}, /* d */ \"e\": \"\xC3\xA9\"}";
  std::mt19937 random(7);  // its raw output is the same everywhere
  for (std::size_t length = 0; length < text.size(); ++length) EXPECT_NE(error_of(text.substr(0, length)), "");
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::string mutated = text;
    for (unsigned edits = 1 + random() % 4; edits > 0; --edits) {
      const std::size_t at = random() % mutated.size();
      switch (random() % 3) {
        case 0:
          mutated[at] = static_cast<char>(random());
          break;
        case 1:
          mutated.erase(at, 1 + random() % 5);
          break;
        default:
          mutated.insert(at, text.substr(random() % text.size(), random() % 9));
          break;
      }
      if (mutated.empty()) mutated.push_back(' ');
    }
    const std::string message = error_of(mutated);
    EXPECT_TRUE(is_utf8(message)) << mutated;
    accepted += message.empty() ? 1 : 0;
  }
  EXPECT_GT(accepted, 100);
  EXPECT_LT(accepted, 19900);
}

}  // namespace
}  // namespace qat

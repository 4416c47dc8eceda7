#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "src/base/json.h"

namespace qat {
namespace {

TEST(ToJson, WritesOneLineOrIndentedKeepingTheOrderOfKeys) {
  Value root = Value::object({{"z", 1}, {"a", Value::array(std::vector<int>{2, 3, 4})}});
  root.set("nested", Value::object({{"ok", true}, {"none", Value()}}));
  root.set("empty", Value::object());
  root.set("list", Value::array({Value::object({{"x", "y"}})}));
  EXPECT_EQ(to_json(root), R"({"z":1,"a":[2,3,4],"nested":{"ok":true,"none":null},"empty":{},"list":[{"x":"y"}]})");
  EXPECT_EQ(to_json(root, 2), R"({
  "z": 1,
  "a": [2, 3, 4],
  "nested": {
    "ok": true,
    "none": null
  },
  "empty": {},
  "list": [
    {
      "x": "y"
    }
  ]
})");
}

TEST(ToJson, DoublesStayDoublesAndReadBackToTheBit) {
  EXPECT_EQ(to_json(1.0), "1.0");
  EXPECT_EQ(to_json(0.1), "0.1");
  EXPECT_EQ(to_json(6e-4), "0.0006");
  EXPECT_EQ(to_json(-0.0), "-0.0");
  EXPECT_EQ(to_json(1e300), "1e+300");
  std::mt19937_64 random(3);
  for (int i = 0; i < 20000; ++i) {
    const double number = std::bit_cast<double>(random());
    if (!std::isfinite(number)) continue;
    const Value back = parse_json(to_json(number), "x");
    EXPECT_FALSE(back.is_int());
    EXPECT_EQ(std::bit_cast<std::uint64_t>(back.as_double()), std::bit_cast<std::uint64_t>(number)) << number;
  }
}

TEST(ToJson, IntegersKeepAllTheirDigits) {
  EXPECT_EQ(to_json(std::int64_t{9007199254740993}), "9007199254740993");
  EXPECT_EQ(to_json(INT64_MIN), "-9223372036854775808");
  EXPECT_EQ(to_json(std::size_t{7}), "7");
  EXPECT_THROW(Value(std::numeric_limits<std::uint64_t>::max()), Error);
}

TEST(ToJson, NumbersThatJsonDoesNotHaveBecomeNull) {
  EXPECT_EQ(to_json(std::nan("")), "null");
  EXPECT_EQ(to_json(-std::numeric_limits<double>::infinity()), "null");
}

TEST(ToJson, EscapesTextAndReplacesWhatIsNotUtf8) {
  EXPECT_EQ(to_json("a\"b\\c\n\t\x01\x7F"), R"("a\"b\\c\n\t\u0001\u007f")");
  EXPECT_EQ(to_json("Gr\xC3\xB6\xC3\x9F"
                    "e \xF0\x9F\x98\x80"),
            "\"Gr\xC3\xB6\xC3\x9F"
            "e \xF0\x9F\x98\x80\"");
  EXPECT_EQ(to_json("\xFFx\xC3"), "\"\xEF\xBF\xBDx\xEF\xBF\xBD\"");
  const std::string everything = [] {
    std::string text;
    for (int c = 1; c < 128; ++c) text += static_cast<char>(c);
    return text;
  }();
  EXPECT_EQ(parse_json(to_json(everything), "x").as_string(), everything);
}

TEST(IsUtf8, RefusesOverlongFormsSurrogatesAndCutCharacters) {
  EXPECT_TRUE(is_utf8("abc \xC3\xA9 \xE2\x82\xAC \xF0\x9F\x98\x80"));
  for (const char* bad : {"\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80", "\xF4\x90\x80\x80", "\xC3",
                          "\xE2\x82", "\xF0\x9F\x98", "\x80", "\xF5\x80\x80\x80"}) {
    EXPECT_FALSE(is_utf8(bad)) << to_json(bad);
  }
}

TEST(JsonValue, AccessorsRefuseOtherTypesAndMissingMembers) {
  const Value root = parse_json("{\n\"a\": 1.5, \"b\": 8.0, \"c\": 1e18}", "run.json");
  EXPECT_THROW(root.at("a").as_int(), Error);
  EXPECT_EQ(root.at("b").as_int(), 8);
  EXPECT_THROW(root.at("c").as_int(), Error);  // neighbouring integers are not told apart there
  EXPECT_THROW(root.at("a").as_bool(), Error);
  EXPECT_THROW(root.at("a").find("x"), Error);
  EXPECT_EQ(root.find("x"), nullptr);
  EXPECT_THROW(root.at("x"), Error);
}

TEST(JsonValue, SetReplacesAndEqualityIgnoresPlaces) {
  Value a = Value::object();
  a.set("x", 1);
  a.set("x", 2);
  EXPECT_EQ(a, parse_json("\n\n{\"x\": 2}", "other"));
  EXPECT_FALSE(a == parse_json("{\"x\": 2.0}", "other"));
}

}  // namespace
}  // namespace qat

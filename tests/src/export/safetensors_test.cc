#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <random>

#include "kernels/common/error.h"
#include "src/export/safetensors_file.h"
#include "tests/src/base/scratch_folder.h"
#include "tests/src/export/model_files.h"

namespace qat {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

class Safetensors : public ::testing::Test {
 protected:
  std::filesystem::path write(std::string_view bytes) const {
    write_bytes(folder_.path() / "m.safetensors", bytes);
    return folder_.path() / "m.safetensors";
  }
  // What opening a file of this header and so many bytes of tensors says; empty: nothing is wrong.
  std::string error_of(const std::string& header, std::size_t data_bytes) const {
    return error_of_file(with_length(header) + std::string(data_bytes, '\1'));
  }
  std::string error_of_file(const std::string& bytes) const {
    try {
      const SafetensorsFile file(write(bytes));
      return {};
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kData) << error.what();
      EXPECT_THAT(error.what(), HasSubstr("m.safetensors"));
      return error.what();
    }
  }

  ScratchFolder folder_;
};

TEST_F(Safetensors, ReadsWhatAnotherProgramWroteInAnyFormatAndOrder) {
  const std::vector<float> values = {1.5F, -2.0F, 0.25F, 3.0F, -0.5F, 8.0F};
  const std::string half = {'\0', '\x3e', '\0', '\xc0'};  // 1.5, -2
  const SafetensorsFile file(write(safetensors_bytes({{"b", "BF16", {6}, upper_halves(values)},
                                                      {"a", "F32", {2, 3}, bytes_of_floats(values)},
                                                      {"none", "F32", {0, 4}, ""},
                                                      {"mask", "BOOL", {3}, "abc"},
                                                      {"h", "F16", {2}, half}})));
  ASSERT_EQ(file.tensors().size(), 5U);
  for (const StoredTensor& tensor : file.tensors()) {
    if (!tensor.format()) continue;
    std::vector<float> read(static_cast<std::size_t>(tensor.elems));
    file.read(tensor, 0, read);
    EXPECT_EQ(read, std::vector<float>(values.begin(), values.begin() + tensor.elems)) << tensor.name;
  }
  const auto& tensors = file.tensors();
  const auto a = std::find_if(tensors.begin(), tensors.end(), [](const auto& t) { return t.name == "a"; });
  std::vector<float> part(2);
  file.read(*a, 3, part);
  EXPECT_EQ(part, (std::vector<float>{3.0F, -0.5F}));
}

TEST_F(Safetensors, WhatDoesNotAddUpIsRefusedWithTheTensorsName) {
  const std::string a = entry("a", "F32", {2}, 0, 8);
  EXPECT_EQ(error_of("{" + a + "}", 8), "");
  EXPECT_EQ(error_of("{" + a + "}    ", 8), "");
  for (const auto& [header, bytes, words] : std::vector<std::tuple<std::string, std::size_t, std::string>>{
           {"{" + a + "}", 7, "\"a\": data_offsets [0, 8] do not lie in the file's 7 bytes"},
           {"{" + a + "}", 9, "the file has 9 bytes of tensors, but its header speaks of 8"},
           {"{" + a + "," + entry("b", "F32", {1}, 4, 8) + "}", 8, "\"b\": byte 4 belongs to another tensor"},
           {"{" + a + "," + entry("b", "F32", {1}, 12, 16) + "}", 16, "\"b\": bytes 8 to 12 before it"},
           {"{" + entry("b", "F32", {1}, 4, 8) + "}", 8, "\"b\": bytes 0 to 4 before it"},
           {"{" + a + "," + a + "}", 8, "the key \"a\" appears twice"},
           {"{" + entry("a", "F32", {3}, 0, 8) + "}", 8, "[0, 8] are 8 bytes, but F32 [3]"},
           {"{" + entry("a", "F17", {2}, 0, 8) + "}", 8, "type \"F17\", which is not known"},
           {"{" + entry("a", "F32", {-2}, 0, 8) + "}", 8, "no list of integers from 0 on"},
           {"{" + entry("a", "F32", {2}, 8, 0) + "}", 8, "do not lie in"},
           {"{" + entry("a", "F32", {2}, -8, 0) + "}", 8, "do not lie in"},
           {"{" + entry("a", "F32", {1LL << 62, 4}, 0, 8) + "}", 8, "more than can be counted"},
           {"{" + entry("a", "F64", {1LL << 61, 1}, 0, 0) + "}", 0, "has another number"},
           {"{" + entry("a", "F32", Shape(9, 1), 0, 4) + "}", 4, "9 axes"},
           {R"({"a":{"dtype":"F32","shape":[2.5],"data_offsets":[0,8]}})", 8, "no list of integers"},
           {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}})", 8, "not two integers"},
           {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", 8, "a field \"x\""},
           {R"({"a":{"dtype":"F32","data_offsets":[0,8]}})", 8, "\"shape\""},
           {R"({"a":[1]})", 8, "expected an object"},
           {R"({"__metadata__":{"format":1}})", 0, "expected a string"},
           {"[]", 0, "does not begin with '{'"},
           {" {}", 0, "does not begin with '{'"},
           {"", 0, "does not begin with '{'"},
           {"{\"a\":", 0, "unexpected end"},
           {"{}x", 0, "expected end of input"},
           {"{\"\xff\":1}", 0, "ill-formed UTF-8"},
           {"{\"a\":" + std::string(200, '['), 0, "nested"}}) {
    EXPECT_THAT(error_of(header, bytes), HasSubstr(words)) << header;
  }
}

TEST_F(Safetensors, AHeaderThatIsTooLongOrCutShortCostsNoMemory) {
  std::string huge = with_length("{}");
  huge[6] = '\x7f';
  EXPECT_THAT(error_of_file(huge), HasSubstr("4 MiB that are read"));
  huge[7] = '\xff';
  EXPECT_THAT(error_of_file(huge), HasSubstr("4 MiB that are read"));
  std::string longer = with_length("{}");
  longer[0] = '\3';
  EXPECT_THAT(error_of_file(longer), HasSubstr("is the copy complete?"));
  EXPECT_THAT(error_of_file("1234567"), HasSubstr("has 7 bytes"));
  EXPECT_THAT(error_of_file(""), HasSubstr("has 0 bytes"));
  std::filesystem::remove(folder_.path() / "m.safetensors");
  EXPECT_THROW(SafetensorsFile(folder_.path() / "m.safetensors"), Error);
  EXPECT_THROW(SafetensorsFile(folder_.path()), Error);
}

TEST_F(Safetensors, ValuesThatAreNoNumbersAreNamed) {
  const SafetensorsFile file(
      write(safetensors_bytes({{"w", "F32", {3}, bytes_of_floats({1, 2, std::numeric_limits<float>::quiet_NaN()})}})));
  std::vector<float> read(3);
  try {
    file.read(file.tensors()[0], 0, read);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("\"w\""), HasSubstr("element 2 is nan")));
  }
}

TEST_F(Safetensors, AFileThatIsCutShortOrWrittenToWhileItIsReadIsAnError) {
  const std::string bytes = safetensors_bytes({{"w", "F32", {1000}, std::string(4000, '\0')}});
  const std::filesystem::path path = write(bytes);
  const SafetensorsFile file(path);
  std::vector<float> read(1000);
  file.read(file.tensors()[0], 0, read);
  file.require_unchanged();
  std::filesystem::resize_file(path, bytes.size() - 400);
  try {
    file.read(file.tensors()[0], 0, read);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    EXPECT_THAT(error.what(), HasSubstr("was cut short while it was in use"));
  }
  EXPECT_THROW(file.require_unchanged(), Error);
}

// Flipped, lost, doubled and foreign bytes: every file is either read, every value inside it, or refused in one error.
TEST_F(Safetensors, ThousandsOfDamagedHeadersEachGiveOneErrorOrAFileThatReads) {
  const std::string header = "{\"__metadata__\":{\"format\":\"pt\"}," + entry("w.a", "F32", {2, 3}, 0, 24) + "," +
                             entry("w.b", "BF16", {4}, 24, 32) + "," + entry("m", "BOOL", {2, 1}, 32, 34) + "}";
  constexpr std::int64_t kData = 34;
  const std::vector<std::string> words = {"{",
                                          "}",
                                          "[",
                                          "]",
                                          ",",
                                          ":",
                                          "\"",
                                          "-1",
                                          "9223372036854775807",
                                          "1e9",
                                          "0",
                                          "4",
                                          "18446744073709551616",
                                          "null",
                                          "true",
                                          "\"F32\"",
                                          "\\u0000",
                                          "\xff",
                                          "24",
                                          "34"};
  std::mt19937 random(7);
  const auto below = [&](std::size_t n) { return std::uniform_int_distribution<std::size_t>(0, n - 1)(random); };
  int read = 0, refused = 0;
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20000; ++i) {
    std::string text = header;
    for (std::size_t edits = 1 + below(3); edits > 0 && !text.empty(); --edits) {
      const std::size_t at = below(text.size());
      switch (below(5)) {
        case 0:
          text[at] = static_cast<char>(below(256));
          break;
        case 1:
          text.erase(at, 1 + below(8));
          break;
        case 2:
          text.insert(at, words[below(words.size())]);
          break;
        case 3:
          text.insert(at, text.substr(below(text.size()), below(60)));
          break;
        default:
          if (const std::size_t digit = text.find_first_of("0123456789", at); digit != text.npos)
            text.replace(digit, 1, words[below(words.size())]);
      }
    }
    try {
      const auto tensors = parse_safetensors_header(text, kData, "fuzzed");
      std::int64_t end = 0;
      for (const StoredTensor& tensor : tensors) {
        ASSERT_EQ(tensor.begin, end) << text;
        ASSERT_GE(tensor.end, tensor.begin) << text;
        ASSERT_EQ(tensor.elems, element_count(tensor.shape)) << text;
        end = tensor.end;
      }
      ASSERT_EQ(end, kData) << text;
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kData) << text << "\n" << error.what();
      ASSERT_LT(std::string_view(error.what()).size(), 2000U);
      ++refused;
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  EXPECT_GT(read, 100);
  EXPECT_GT(refused, 10000);
  RecordProperty("cases_per_second", static_cast<int>(20000 / seconds));
}

TEST_F(Safetensors, WholeFilesDamagedAnywhereAreReadOrRefused) {
  const std::string whole = safetensors_bytes({{"w", "F32", {4}, bytes_of_floats({1, 2, 3, 4})}});
  std::mt19937 random(11);
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = whole;
    const auto at = static_cast<std::size_t>(random() % bytes.size());
    if (i % 3 == 0) {
      bytes.resize(at);
    } else {
      bytes[at] = static_cast<char>(random());
    }
    try {
      const SafetensorsFile file(write(bytes));
      for (const StoredTensor& tensor : file.tensors()) {
        if (!tensor.format()) continue;
        std::vector<float> values(static_cast<std::size_t>(tensor.elems));
        file.read(tensor, 0, values);
      }
    } catch (const Error& error) {
      ASSERT_EQ(error.kind(), ErrorKind::kData) << error.what();
    }
  }
}

TEST_F(Safetensors, WhatIsWrittenReadsBackAndLiesAtMultiplesOfEight) {
  const std::filesystem::path path = folder_.path() / "out.safetensors";
  const std::vector<float> values = {0.5F, -1.25F, 3.0F, 1e-3F, -7.0F};
  for (const FloatFormat format : {FloatFormat::kFloat32, FloatFormat::kFloat16, FloatFormat::kBFloat16}) {
    SafetensorsWriter writer(path, format, {{"x", {2}}, {"y \"z\"", {3}}});
    writer.append(std::span(values).first(1));
    writer.append(std::span(values).subspan(1));
    writer.complete();
    writer.publish();
    EXPECT_EQ(static_cast<std::int64_t>(std::filesystem::file_size(path)), writer.bytes());
    std::uint64_t length = 0;
    std::memcpy(&length, read_bytes(path).data(), 8);
    EXPECT_EQ(length % 8, 0U);
    const SafetensorsFile file(path);
    ASSERT_EQ(file.tensors().size(), 2U);
    EXPECT_EQ(file.tensors()[1].name, "y \"z\"");
    std::vector<float> y(3);
    file.read(file.tensors()[1], 0, y);
    EXPECT_NEAR(y[1], 1e-3F, format == FloatFormat::kFloat32 ? 0 : 1e-5);
    EXPECT_EQ(y[2], -7.0F);
  }
}

TEST_F(Safetensors, AnUnfinishedFileLeavesWhatWasThere) {
  const std::filesystem::path path = write("before");
  {
    SafetensorsWriter writer(path, FloatFormat::kFloat16, {{"x", {2}}});
    const std::vector<float> values = {1.0F, 70000.0F};
    try {
      writer.append(values);
      FAIL();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), AllOf(HasSubstr("\"x\""), HasSubstr("70000"), HasSubstr("float16")));
    }
  }
  EXPECT_EQ(read_bytes(path), "before");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
  EXPECT_THROW(SafetensorsWriter(folder_.path() / "none" / "x", FloatFormat::kFloat32, {}), Error);
  EXPECT_THROW(SafetensorsWriter(path, FloatFormat::kFloat32, {{"x", {1LL << 50}}}), Error);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder_.path()), {}), 1);
}

}  // namespace
}  // namespace qat

// Folders, files and token lists for the tests of src/data.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/error.h"
#include "src/data/token_file.h"
#include "src/data/token_source.h"

namespace qat::testing {

// A folder of the test's own, removed at its end. The name has a blank and UTF-8 in it: paths may (reliability case
// 28).
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "qat täst XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  std::string file(std::string_view name) const { return (path_ / name).string(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string write_text(const std::string& path, std::string_view content) {
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

inline std::string read_text(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// first, first + 1, ...: a token names its own place.
inline std::vector<int> counting(int first, std::size_t count) {
  std::vector<int> ids(count);
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

inline std::string write_shard(const std::string& path, const std::vector<int>& ids) {
  TokenFileWriter writer(path);
  writer.append(ids);
  writer.complete();
  writer.publish();
  return path;
}

inline std::vector<int> tokens_of(const std::vector<std::string>& files) {
  if (files.empty()) return {};
  const TokenSource source = open_tokens(files, Split::kTrain);
  std::vector<std::int32_t> ids(static_cast<std::size_t>(source.total_tokens()));
  source.copy(0, ids);
  return ids;
}

// The message of the error that f throws, which must be of this kind.
template <typename F>
std::string error_message(ErrorKind kind, F&& f) {
  try {
    f();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error was thrown";
  return {};
}

}  // namespace qat::testing

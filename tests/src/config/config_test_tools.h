#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/error.h"
#include "src/config/loader.h"

namespace qat::testing {

using Sets = std::vector<std::string>;

inline LoadResult load_text(std::string_view text, const Sets& sets = {}) {
  return load_run_config_text(text, "run.json", sets);
}

inline LoadResult load_sets(const Sets& sets) { return load_run_config(std::nullopt, sets); }

// The message of the configuration error that loading throws; empty if it throws none.
inline std::string error_of(std::string_view text, const Sets& sets = {}) {
  try {
    load_text(text, sets);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kConfig);
    return error.what();
  }
  return "";
}

inline std::filesystem::path source_folder() {
  const char* folder = std::getenv("QAT_TEST_SOURCE_DIR");
  return folder == nullptr ? std::filesystem::path(__FILE__).parent_path().parent_path().parent_path().parent_path()
                           : std::filesystem::path(folder);
}

inline std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace qat::testing

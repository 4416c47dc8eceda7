// What the checkpoint tests share: a folder of their own, a small checkpoint with known content, bytes on disk.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <span>
#include <string>
#include <vector>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"
#include "src/checkpoint/reader.h"
#include "src/checkpoint/sharded_save.h"

namespace qat::testing {

class ScratchFolder : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    // A space and a letter outside ASCII: paths are bytes to us.
    root_ = std::filesystem::path(::testing::TempDir()) /
            ("qat ckpt \xC3\xA9 " + std::to_string(::getpid()) + " " + info->name());
    std::filesystem::remove_all(root_);
    std::filesystem::create_directories(root_);
  }
  void TearDown() override { std::filesystem::remove_all(root_); }

  std::filesystem::path root_;
};

// view() of a vector that may be a temporary: it lives until the call it is an argument of returns.
template <typename T>
ConstBufferView content(const std::vector<T>& values) {
  return view(std::span<const T>(values));
}

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void write_bytes(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc)
      .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

// In place: rewriting a file for every byte of it would wait for the disk each time.
inline void flip_bit(const std::filesystem::path& path, std::size_t at, int bit) {
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  file.seekg(static_cast<std::streamoff>(at));
  const char flipped = static_cast<char>(file.get() ^ (1 << bit));
  file.seekp(static_cast<std::streamoff>(at));
  file.put(flipped);
}

// As a run of one rank saves. The content depends on `value` alone: which save a loaded checkpoint came from shows in
// every element.
inline CheckpointInfo save_small(const std::filesystem::path& root, std::int64_t step, std::int64_t value,
                                 std::int64_t rows = 16) {
  const std::vector<float> weight(static_cast<std::size_t>(rows * 8), static_cast<float>(value));
  const TensorPiece piece{"/model/transformer.wte.weight", {rows, 8}, 0, content(weight)};
  const auto rest = [&](CheckpointWriter& writer) {
    writer.write_tensor("/optimizer/step/transformer.wte.weight", {}, content(std::vector<std::int64_t>{value}));
    writer.set_attribute("/model/transformer.wte.weight", "layout", std::string("vocab,embd"));
    writer.set_attribute("/state", "value", value);
  };
  const auto comm = dist::make_single_comm();
  ShardedSave save(root, step, {piece}, rest, *comm);
  save.write();
  const std::filesystem::path folder = save.finish();
  return {folder, step, read_manifest(folder, /*hash=*/false).bytes()};
}

inline void expect_small(const CheckpointReader& reader, std::int64_t value) {
  const auto weight = reader.read_tensor<float>("/model/transformer.wte.weight");
  EXPECT_FALSE(weight.empty());
  EXPECT_THAT(weight, ::testing::Each(static_cast<float>(value)));
  EXPECT_EQ(reader.read_tensor<std::int64_t>("/optimizer/step/transformer.wte.weight"),
            std::vector<std::int64_t>{value});
  EXPECT_EQ(reader.attribute<std::int64_t>("/state", "value"), value);
}

inline std::vector<std::int64_t> steps_of(const std::vector<CheckpointInfo>& checkpoints) {
  std::vector<std::int64_t> steps;
  for (const CheckpointInfo& info : checkpoints) steps.push_back(info.step);
  return steps;
}

// Names in a folder that begin with a dot: what a save must not leave behind.
inline std::vector<std::string> leftovers(const std::filesystem::path& root) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(root)) {
    if (entry.path().filename().string().starts_with('.')) names.push_back(entry.path().filename().string());
  }
  return names;
}

// The message of the Error(kCheckpoint) that `call` must throw.
inline std::string checkpoint_error(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kCheckpoint) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

}  // namespace qat::testing

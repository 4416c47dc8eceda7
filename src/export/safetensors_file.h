// Files of tensors in the safetensors format, as Hugging Face keeps models in: read, and written.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/base/file.h"
#include "src/export/safetensors_header.h"

namespace qat {

// Open for reading. Values are read when they are wanted, not mapped: a file that is cut short or written to while it
// is in use is an error like any other. All errors are kData and name the file.
class SafetensorsFile {
 public:
  // Reads and checks the header.
  explicit SafetensorsFile(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<StoredTensor>& tensors() const { return tensors_; }  // in the file's order

  // Elements [first, first + out.size()) of one of them, row-major, as fp32. Throws where a number is not finite.
  void read(const StoredTensor& tensor, std::int64_t first, std::span<float> out) const;

  // Throws if the file was written to since it was opened.
  void require_unchanged() const;

 private:
  struct Stamp {
    std::int64_t bytes = 0, changed_ns = 0;
    bool operator==(const Stamp&) const = default;
  };
  Stamp stamp() const;
  void read_bytes(std::span<std::byte> out, std::int64_t offset) const;
  [[noreturn]] void fail(const std::string& what) const;

  std::filesystem::path path_;
  FileDescriptor fd_;
  Stamp opened_;
  std::int64_t data_offset_ = 0;  // of the first tensor's first byte
  std::vector<StoredTensor> tensors_;
};

struct TensorToWrite {
  std::string name;
  Shape shape;
};

// Writes a file under a temporary name beside `path`; complete() syncs it, publish() gives it its name, in place of one
// that has it. A writer that is destroyed unpublished leaves nothing behind. Errors are kData.
class SafetensorsWriter {
 public:
  // Makes the temporary file, if there is space for all of it, and writes its header.
  SafetensorsWriter(std::filesystem::path path, FloatFormat format, const std::vector<TensorToWrite>& tensors);
  SafetensorsWriter(const SafetensorsWriter&) = delete;
  SafetensorsWriter& operator=(const SafetensorsWriter&) = delete;
  ~SafetensorsWriter();

  // The next values of the tensors, in their order; all finite. One that the format cannot hold (beyond 65504 in fp16)
  // is an error that names the tensor.
  void append(std::span<const float> values);
  // Every value must have been written.
  void complete();
  void publish();

  std::int64_t bytes() const { return bytes_; }  // of the whole file

 private:
  void append_block(std::span<const float> values);
  [[noreturn]] void fail(const std::string& what, int error) const;
  std::string tensor_at(std::int64_t byte) const;

  std::filesystem::path path_, temporary_;
  FloatFormat format_;
  std::vector<StoredTensor> tensors_;
  FileDescriptor fd_;
  bool temporary_exists_ = false;
  std::int64_t bytes_ = 0, written_ = 0;  // written_: of tensors
};

}  // namespace qat

// One HDF5 file: named datasets ("/model/wte.weight"; groups come into being by path) and scalar attributes.
// HDF5 is not thread-safe as distributions build it: one thread at a time, over all files of the process.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kernels/common/view.h"
#include "src/checkpoint/h5_handle.h"

namespace qat {

using Shape = std::vector<std::int64_t>;  // {} is a scalar: one element
using Attribute = std::variant<std::int64_t, double, std::string>;

struct TensorInfo {
  std::string name;  // absolute path in the file
  DType dtype = DType::kFloat32;
  Shape shape;
};

std::int64_t element_count(const Shape& shape);
std::string describe(DType dtype, const Shape& shape);  // "float32 [768, 2304]"

class H5File {
 public:
  // A new file at a path where nothing is yet. Equal content gives equal bytes: no time stamps are stored.
  static H5File create(const std::filesystem::path& path);
  static H5File open(const std::filesystem::path& path);  // read only

  H5File(H5File&& other) noexcept = default;
  H5File& operator=(H5File&& other) = delete;
  // A created file that close() has not finished is abandoned: what is not on disk yet is thrown away.
  ~H5File();

  // Flushes and closes a created file; throws when the bytes could not be handed to the file system.
  void close();

  const std::filesystem::path& path() const noexcept { return path_; }

  // Row-major data of `shape`, stored little-endian with a fletcher32 checksum on every chunk. DType::kBFloat16 has no
  // HDF5 type: not accepted. Names are unique; a missing leading '/' is added.
  void write_dataset(std::string_view name, const Shape& shape, ConstBufferView data);

  bool has_dataset(std::string_view name) const;
  TensorInfo dataset_info(std::string_view name) const;
  // Fills `out`; throws when the stored type or shape is another, or a checksum is wrong.
  void read_dataset(std::string_view name, const Shape& shape, BufferView out) const;
  // All datasets below a group, sorted by path; none when there is no such group.
  std::vector<std::string> list_datasets(std::string_view group = "/") const;

  // `object`: "/", a dataset or a group; a group that is not there yet is made. Replaces an attribute of that key.
  void set_attribute(std::string_view object, const std::string& key, const Attribute& value);
  bool has_attribute(std::string_view object, const std::string& key) const;
  Attribute attribute(std::string_view object, const std::string& key) const;

 private:
  class AbsorbOnError;

  H5File(std::filesystem::path path, H5Handle file, bool writable);
  bool exists(const std::string& path) const;
  void make_groups(const std::string& path);
  H5Handle open_dataset(const std::string& path) const;
  H5Handle open_attribute(std::string_view object, const std::string& key) const;
  TensorInfo info_of(H5Id dataset, const std::string& path) const;
  void absorb() noexcept;
  void abandon() noexcept;

  std::filesystem::path path_;
  H5Handle file_;
  bool writable_ = false;
  bool absorbed_ = false;  // writes go nowhere any more: see absorb()
};

}  // namespace qat

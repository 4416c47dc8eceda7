// One HDF5 file: named datasets ("/model/wte.weight"; groups come into being by path) and scalar attributes. Files are
// used by one thread each; HDF5 itself takes one thread at a time, which is seen to here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "kernels/common/view.h"
#include "src/checkpoint/h5_handle.h"

namespace qat {

using Shape = std::vector<std::int64_t>;  // {} is a scalar: one element
using Attribute = std::variant<std::int64_t, double, std::string>;
using H5Size = unsigned long long;  // hsize_t
using H5Extents = std::vector<H5Size>;

struct TensorInfo {
  std::string name;  // absolute path in the file
  DType dtype = DType::kFloat32;
  Shape shape;
};

// Elements [first, first + elems) of a virtual dataset, in row-major order: they are those from source_first on of a
// dataset of one axis in another file.
struct VirtualPart {
  std::string file;     // in the folder of the file that has the virtual dataset
  std::string dataset;  // absolute path there
  std::int64_t first = 0;
  std::int64_t elems = 0;
  std::int64_t source_first = 0;
  bool operator==(const VirtualPart&) const = default;
};

std::int64_t element_count(const Shape& shape);
std::string describe(DType dtype, const Shape& shape);  // "float32 [768, 2304]"

class H5File {
 public:
  // Writes elements [first, first + out.elems) of a tensor to `out`, in host memory.
  using FillBlock = std::function<void(std::int64_t first, BufferView out)>;

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

  // Row-major host data of `shape`, stored little-endian with a fletcher32 checksum on every chunk. DType::kBFloat16
  // has no HDF5 type: not accepted. Names are unique; a missing leading '/' is added.
  void write_dataset(std::string_view name, const Shape& shape, ConstBufferView data);
  // The same, of shape [elems], from wherever the values are: asked for block after block of a few MiB, which is all
  // that is held in memory. elems > 0.
  void write_blocks(std::string_view name, std::int64_t elems, DType dtype, const FillBlock& fill);
  // A dataset whose values are in other files, which need not be there yet. `parts` are its elements, each once. Where
  // a file of them is missing, HDF5 shows floating-point values as NaN.
  void write_virtual(std::string_view name, const Shape& shape, DType dtype, std::span<const VirtualPart> parts);

  bool has_dataset(std::string_view name) const;
  TensorInfo dataset_info(std::string_view name) const;
  // Where a virtual dataset's values are, ascending, without a gap; empty for one that has its own.
  std::vector<VirtualPart> virtual_parts(std::string_view name) const;
  // Fills `out`; throws when the stored type or shape is another, or a checksum is wrong. A virtual dataset's values
  // are looked up by HDF5, which takes what is not there for NaN: follow virtual_parts() instead.
  void read_dataset(std::string_view name, const Shape& shape, BufferView out) const;
  // The same for elements [first, first + out.elems) in row-major order.
  void read_elements(std::string_view name, const Shape& shape, std::int64_t first, BufferView out) const;
  // The same of a dataset of one axis that is long enough.
  void read_axis(std::string_view name, std::int64_t first, BufferView out) const;
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
  void require_new(const std::string& path) const;
  // A chunked dataset of at least one element, each chunk to be written once and whole.
  H5Handle make_chunked(const std::string& path, const Shape& shape, DType dtype, const H5Extents& chunk);
  H5Handle make_dataset(const std::string& path, const Shape& shape, DType dtype, H5Id creation, H5Id access);
  H5Handle open_dataset(const std::string& path) const;
  H5Handle open_attribute(std::string_view object, const std::string& key) const;
  TensorInfo info_of(H5Id dataset, const std::string& path) const;
  void read_slabs(const TensorInfo& info, std::int64_t first, BufferView out) const;
  std::vector<VirtualPart> parts_of(H5Id dataset, const TensorInfo& info) const;
  void absorb() noexcept;
  void abandon() noexcept;

  std::filesystem::path path_;
  H5Handle file_;
  bool writable_ = false;
  bool absorbed_ = false;  // writes go nowhere any more: see absorb()
};

}  // namespace qat

// H5File's datasets: whole, in blocks, virtual.
#include <fmt/format.h>
#include <hdf5.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>

#include "kernels/common/error.h"
#include "src/checkpoint/h5_file.h"
#include "src/checkpoint/h5_internal.h"
#include "src/checkpoint/h5_space.h"
#include "src/checkpoint/h5_types.h"

namespace qat {
namespace {

// Lets other threads at HDF5 for as long as it lives.
class Unlocked {
 public:
  explicit Unlocked(std::unique_lock<std::recursive_mutex>& lock) : lock_(lock) { lock_.unlock(); }
  Unlocked(const Unlocked&) = delete;
  Unlocked& operator=(const Unlocked&) = delete;
  ~Unlocked() { lock_.lock(); }

 private:
  std::unique_lock<std::recursive_mutex>& lock_;
};

std::string text_of(const std::function<ssize_t(char*, std::size_t)>& get, const std::filesystem::path& file) {
  const ssize_t size = QAT_H5_CHECK(get(nullptr, 0), file);
  std::string text(static_cast<std::size_t>(size) + 1, '\0');  // HDF5 wants room for its NUL
  QAT_H5_CHECK(get(text.data(), text.size()), file);
  text.pop_back();
  return text;
}

}  // namespace

void H5File::require_new(const std::string& path) const {
  QAT_CHECK(writable_ && file_.get() >= 0, "the file is not open for writing");
  QAT_CHECK(path != "/" && !exists(path), path + " is written twice");
}

H5Handle H5File::make_dataset(const std::string& path, const Shape& shape, DType dtype, H5Id creation, H5Id access) {
  const H5Handle space = h5_space(shape, path_);
  make_groups(path.substr(0, path.rfind('/')));
  return {QAT_H5_CHECK(H5Dcreate2(file_.get(), path.c_str(), h5_type(dtype, /*in_file=*/true), space.get(), H5P_DEFAULT,
                                  creation, access),
                       path_),
          H5Dclose};
}

H5Handle H5File::make_chunked(const std::string& path, const Shape& shape, DType dtype, const H5Extents& chunk) {
  const H5Handle creation = h5_creation_list(H5P_DATASET_CREATE, path_);
  const H5Handle access(QAT_H5_CHECK(H5Pcreate(H5P_DATASET_ACCESS), path_), H5Pclose);
  QAT_H5_CHECK(H5Pset_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data()), path_);
  QAT_H5_CHECK(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER), path_);
  QAT_H5_CHECK(H5Pset_fletcher32(creation.get()), path_);
  // Without a cache a write error shows here, not in some later close.
  QAT_H5_CHECK(H5Pset_chunk_cache(access.get(), /*slots=*/0, /*bytes=*/0, /*preemption=*/1.0), path_);
  return make_dataset(path, shape, dtype, creation.get(), access.get());
}

void H5File::write_dataset(std::string_view name, const Shape& shape, ConstBufferView data) {
  const auto lock = h5_lock();
  const std::string path = h5_canonical(name);
  const std::int64_t count = element_count(shape);
  QAT_CHECK(count == data.elems, fmt::format("{} has {} elements, {} were given", path, count, data.elems));
  QAT_CHECK(data.device == Device::kCpu, path + " is not in host memory");
  QAT_CHECK(shape.size() <= H5S_MAX_RANK, path + " has too many axes for HDF5");
  require_new(path);
  H5Handle dataset;
  const AbsorbOnError guard(*this);
  if (shape.empty() || count == 0) {
    // Neither can be chunked; compact data lies in the object header, which has a checksum of its own.
    const H5Handle creation = h5_creation_list(H5P_DATASET_CREATE, path_);
    QAT_H5_CHECK(H5Pset_layout(creation.get(), H5D_COMPACT), path_);
    dataset = make_dataset(path, shape, data.dtype, creation.get(), H5P_DEFAULT);
  } else {
    const auto element_bytes = static_cast<std::int64_t>(size_of(data.dtype));
    dataset = make_chunked(path, shape, data.dtype, h5_chunk_shape(shape, element_bytes));
  }
  if (count > 0) {
    QAT_H5_CHECK(
        H5Dwrite(dataset.get(), h5_type(data.dtype, /*in_file=*/false), H5S_ALL, H5S_ALL, H5P_DEFAULT, data.data),
        path_);
  }
  QAT_H5_CHECK(H5Dclose(dataset.release()), path_);
}

void H5File::write_blocks(std::string_view name, std::int64_t elems, DType dtype, const FillBlock& fill) {
  auto lock = h5_lock();
  const std::string path = h5_canonical(name);
  QAT_CHECK(elems > 0, path + " has no elements");
  require_new(path);
  const Shape shape = {elems};
  const auto element_bytes = static_cast<std::int64_t>(size_of(dtype));
  const H5Extents chunk = h5_chunk_shape(shape, element_bytes);
  const auto block = static_cast<std::int64_t>(chunk[0]);
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(block * element_bytes));
  H5Handle dataset;
  const AbsorbOnError guard(*this);
  dataset = make_chunked(path, shape, dtype, chunk);
  for (std::int64_t first = 0; first < elems; first += block) {
    const std::int64_t count = std::min(block, elems - first);
    {
      const Unlocked unlocked(lock);
      fill(first, {buffer.get(), count, dtype, Device::kCpu});
    }
    const H5Handle memory = h5_space({count}, path_);
    const H5Handle place = h5_space(shape, slabs_of(shape, first, count).front(), path_);
    QAT_H5_CHECK(H5Dwrite(dataset.get(), h5_type(dtype, /*in_file=*/false), memory.get(), place.get(), H5P_DEFAULT,
                          buffer.get()),
                 path_);
  }
  QAT_H5_CHECK(H5Dclose(dataset.release()), path_);
}

void H5File::write_virtual(std::string_view name, const Shape& shape, DType dtype, std::span<const VirtualPart> parts) {
  const auto lock = h5_lock();
  const std::string path = h5_canonical(name);
  require_new(path);
  const H5Handle creation = h5_creation_list(H5P_DATASET_CREATE, path_);
  if (dtype == DType::kFloat32 || dtype == DType::kFloat64) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    QAT_H5_CHECK(H5Pset_fill_value(creation.get(), H5T_NATIVE_DOUBLE, &nan), path_);
  }
  for (const VirtualPart& part : parts) {
    std::int64_t source = part.source_first;
    for (const Slab& slab : slabs_of(shape, part.first, part.elems)) {
      const Shape source_shape = {part.source_first + part.elems};  // at least: HDF5 looks when it opens the file
      const H5Handle here = h5_space(shape, slab, path_);
      const H5Handle there = h5_space(source_shape, slabs_of(source_shape, source, slab.elems).front(), path_);
      QAT_H5_CHECK(H5Pset_virtual(creation.get(), here.get(), part.file.c_str(), part.dataset.c_str(), there.get()),
                   path_);
      source += slab.elems;
    }
  }
  H5Handle dataset;
  const AbsorbOnError guard(*this);
  dataset = make_dataset(path, shape, dtype, creation.get(), H5P_DEFAULT);
  QAT_H5_CHECK(H5Dclose(dataset.release()), path_);
}

H5Handle H5File::open_dataset(const std::string& path) const {
  if (!has_dataset(path)) h5_refuse(path_, "no tensor " + path);
  return {QAT_H5_CHECK(H5Dopen2(file_.get(), path.c_str(), H5P_DEFAULT), path_), H5Dclose};
}

TensorInfo H5File::info_of(H5Id dataset, const std::string& path) const {
  const H5Handle type(QAT_H5_CHECK(H5Dget_type(dataset), path_), H5Tclose);
  const H5Handle space(QAT_H5_CHECK(H5Dget_space(dataset), path_), H5Sclose);
  const std::optional<DType> dtype = h5_dtype(type.get());
  if (!dtype) h5_refuse(path_, "tensor " + path + " has an element type that this program does not read");
  std::vector<hsize_t> dims(static_cast<std::size_t>(QAT_H5_CHECK(H5Sget_simple_extent_ndims(space.get()), path_)));
  QAT_H5_CHECK(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr), path_);
  return {path, *dtype, Shape(dims.begin(), dims.end())};
}

std::vector<VirtualPart> H5File::parts_of(H5Id dataset, const TensorInfo& info) const {
  const H5Handle creation(QAT_H5_CHECK(H5Dget_create_plist(dataset), path_), H5Pclose);
  if (QAT_H5_CHECK(H5Pget_layout(creation.get()), path_) != H5D_VIRTUAL) return {};
  const auto refuse = [&](const std::string& what) {
    h5_refuse(path_, fmt::format("virtual tensor {}: {}", info.name, what));
  };
  std::size_t count = 0;
  QAT_H5_CHECK(H5Pget_virtual_count(creation.get(), &count), path_);
  std::vector<VirtualPart> parts;
  for (std::size_t i = 0; i < count; ++i) {
    VirtualPart part;
    part.file =
        text_of([&](char* out, std::size_t n) { return H5Pget_virtual_filename(creation.get(), i, out, n); }, path_);
    part.dataset =
        text_of([&](char* out, std::size_t n) { return H5Pget_virtual_dsetname(creation.get(), i, out, n); }, path_);
    const H5Handle here(QAT_H5_CHECK(H5Pget_virtual_vspace(creation.get(), i), path_), H5Sclose);
    const H5Handle there(QAT_H5_CHECK(H5Pget_virtual_srcspace(creation.get(), i), path_), H5Sclose);
    hsize_t bound = 0;  // of what is selected there: HDF5 does not keep how long that dataset is
    if (H5Sget_simple_extent_ndims(there.get()) != 1) refuse("a part of it has more than one axis");
    QAT_H5_CHECK(H5Sget_simple_extent_dims(there.get(), &bound, nullptr), path_);
    const auto range = selected_range(here.get(), info.shape, path_);
    const auto source = selected_range(there.get(), {static_cast<std::int64_t>(bound)}, path_);
    if (!range || !source || range->elems != source->elems)
      h5_refuse(path_, fmt::format("virtual tensor {}: a part of it is no range of elements", info.name));
    part.first = range->first;
    part.elems = range->elems;
    part.source_first = source->first;
    parts.push_back(std::move(part));
  }
  std::sort(parts.begin(), parts.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::int64_t end = 0;
  for (const VirtualPart& part : parts) {
    if (part.first != end) refuse(fmt::format("element {} is in no part of it, or in two", std::min(end, part.first)));
    end += part.elems;
  }
  if (end != element_count(info.shape)) refuse(fmt::format("element {} is in no part of it", end));
  return parts;
}

TensorInfo H5File::dataset_info(std::string_view name) const {
  const auto lock = h5_lock();
  const std::string path = h5_canonical(name);
  const H5Handle dataset = open_dataset(path);
  TensorInfo info = info_of(dataset.get(), path);
  // Nothing is compressed, so what a tensor claims to hold must be there: a torn file cannot make a reader allocate
  // more than the file's size, nor hand out fill values for chunks that were never written.
  const hsize_t stored = H5Dget_storage_size(dataset.get());
  hsize_t claimed = size_of(info.dtype);
  bool overflow = false;
  for (const std::int64_t extent : info.shape)
    overflow |= __builtin_mul_overflow(claimed, static_cast<hsize_t>(extent), &claimed);
  if (overflow || (claimed > stored && parts_of(dataset.get(), info).empty())) {
    h5_refuse(path_, fmt::format("tensor {} is not whole: {} needs more than the {} bytes stored", path,
                                 describe(info.dtype, info.shape), stored));
  }
  return info;
}

std::vector<VirtualPart> H5File::virtual_parts(std::string_view name) const {
  const auto lock = h5_lock();
  const std::string path = h5_canonical(name);
  const H5Handle dataset = open_dataset(path);
  return parts_of(dataset.get(), info_of(dataset.get(), path));
}

void H5File::read_dataset(std::string_view name, const Shape& shape, BufferView out) const {
  QAT_CHECK(element_count(shape) == out.elems, std::string(name) + ": the buffer does not fit");
  read_elements(name, shape, /*first=*/0, out);
}

void H5File::read_elements(std::string_view name, const Shape& shape, std::int64_t first, BufferView out) const {
  const auto lock = h5_lock();
  const TensorInfo info = dataset_info(name);
  if (info.dtype != out.dtype || info.shape != shape) {
    h5_refuse(path_, fmt::format("tensor {}: expected {}, found {}", info.name, describe(out.dtype, shape),
                                 describe(info.dtype, info.shape)));
  }
  read_slabs(info, first, out);
}

void H5File::read_axis(std::string_view name, std::int64_t first, BufferView out) const {
  const auto lock = h5_lock();
  const TensorInfo info = dataset_info(name);
  if (info.dtype != out.dtype || info.shape.size() != 1 || info.shape[0] < first + out.elems) {
    h5_refuse(path_, fmt::format("tensor {}: expected {} or longer, found {}", info.name,
                                 describe(out.dtype, {first + out.elems}), describe(info.dtype, info.shape)));
  }
  read_slabs(info, first, out);
}

void H5File::read_slabs(const TensorInfo& info, std::int64_t first, BufferView out) const {
  const std::int64_t whole = element_count(info.shape);
  QAT_CHECK(first >= 0 && out.elems >= 0 && first <= whole - out.elems && out.device == Device::kCpu,
            info.name + ": the buffer does not fit");
  const H5Handle dataset = open_dataset(info.name);
  const H5Id type = h5_type(out.dtype, /*in_file=*/false);
  const std::filesystem::path place = path_ / info.name.substr(1);  // names the tensor whose checksum is wrong
  if (out.elems == whole) {
    if (whole > 0) QAT_H5_CHECK(H5Dread(dataset.get(), type, H5S_ALL, H5S_ALL, H5P_DEFAULT, out.data), place);
    return;
  }
  auto* at = static_cast<std::byte*>(out.data);
  for (const Slab& slab : slabs_of(info.shape, first, out.elems)) {
    const H5Handle memory = h5_space({slab.elems}, path_);
    const H5Handle block = h5_space(info.shape, slab, path_);
    QAT_H5_CHECK(H5Dread(dataset.get(), type, memory.get(), block.get(), H5P_DEFAULT, at), place);
    at += static_cast<std::size_t>(slab.elems) * size_of(out.dtype);
  }
}

}  // namespace qat

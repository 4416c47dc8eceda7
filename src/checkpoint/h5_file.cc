#include "src/checkpoint/h5_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <hdf5.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <optional>

#include "kernels/common/error.h"
#include "src/checkpoint/h5_types.h"

namespace qat {
namespace {

// Absolute, without empty, "." or ".." components, which HDF5 would take for something else than a name.
std::string canonical(std::string_view name) {
  std::string path(name);
  if (!path.starts_with('/')) path.insert(0, 1, '/');
  if (path == "/") return path;
  QAT_CHECK(path.find('\0') == std::string::npos, "HDF5 names hold no NUL");
  for (std::size_t begin = 1; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    QAT_CHECK(!part.empty() && part != "." && part != "..", "'" + path + "' is not a name of a tensor or group");
    begin = end + 1;
  }
  return path;
}

H5Handle creation_list(H5Id cls, const std::filesystem::path& file) {
  H5Handle list(QAT_H5_CHECK(H5Pcreate(cls), file), H5Pclose);
  QAT_H5_CHECK(H5Pset_obj_track_times(list.get(), false), file);
  return list;
}

H5Handle access_list(const std::filesystem::path& file) {
  H5Handle list(QAT_H5_CHECK(H5Pcreate(H5P_FILE_ACCESS), file), H5Pclose);
  // The 1.10 format checksums its metadata; older ones do not.
  QAT_H5_CHECK(H5Pset_libver_bounds(list.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), file);
  QAT_H5_CHECK(H5Pset_fclose_degree(list.get(), H5F_CLOSE_STRONG), file);
  // Some network file systems have no locks, and a checkpoint is never shared while it is written.
  QAT_H5_CHECK(H5Pset_file_locking(list.get(), /*use_file_locking=*/false, /*ignore_when_disabled=*/true), file);
  return list;
}

H5Handle make_space(const Shape& shape, const std::filesystem::path& file) {
  if (shape.empty()) return {QAT_H5_CHECK(H5Screate(H5S_SCALAR), file), H5Sclose};
  const std::vector<hsize_t> dims(shape.begin(), shape.end());
  return {QAT_H5_CHECK(H5Screate_simple(static_cast<int>(dims.size()), dims.data(), nullptr), file), H5Sclose};
}

[[noreturn]] void fail(const std::filesystem::path& file, const std::string& what) {
  throw Error(ErrorKind::kCheckpoint, file.string() + ": " + what);
}

}  // namespace

// While an exception unwinds, HDF5's own buffers must be emptied somewhere, or closing the identifiers fails, leaks and
// leaves dangling entries. Declared after the identifiers of a function, so that it acts before they close.
class H5File::AbsorbOnError {
 public:
  explicit AbsorbOnError(H5File& file) : file_(file), exceptions_at_birth_(std::uncaught_exceptions()) {}
  AbsorbOnError(const AbsorbOnError&) = delete;
  AbsorbOnError& operator=(const AbsorbOnError&) = delete;
  ~AbsorbOnError() {
    if (std::uncaught_exceptions() > exceptions_at_birth_) file_.absorb();
  }

 private:
  H5File& file_;
  int exceptions_at_birth_;
};

H5File::H5File(std::filesystem::path path, H5Handle file, bool writable)
    : path_(std::move(path)), file_(std::move(file)), writable_(writable) {}

H5File H5File::create(const std::filesystem::path& path) {
  h5_prepare();
  const H5Handle access = access_list(path);
  const H5Handle creation = creation_list(H5P_FILE_CREATE, path);
  H5Handle file(QAT_H5_CHECK(H5Fcreate(path.c_str(), H5F_ACC_EXCL, creation.get(), access.get()), path), H5Fclose);
  return {path, std::move(file), /*writable=*/true};
}

H5File H5File::open(const std::filesystem::path& path) {
  h5_prepare();
  const H5Handle access = access_list(path);
  H5Handle file(QAT_H5_CHECK(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), path), H5Fclose);
  return {path, std::move(file), /*writable=*/false};
}

H5File::~H5File() {
  if (writable_ && file_.get() >= 0) abandon();
}

void H5File::close() {
  QAT_CHECK(writable_ && file_.get() >= 0, "only a created file is closed, and once");
  {
    const AbsorbOnError guard(*this);
    QAT_CHECK(!absorbed_, "a file whose writing failed is closed as if it were whole");
    QAT_H5_CHECK(H5Fflush(file_.get(), H5F_SCOPE_GLOBAL), path_);
  }
  // Released first: an identifier whose closing failed is torn inside and must not be closed again. That one leaks, but
  // only when the disk fails at the last record, which overwrites a block that is there already.
  QAT_H5_CHECK(H5Fclose(file_.release()), path_);
}

// Puts an unlinked file in memory under HDF5's descriptor: what HDF5 still has to write succeeds and goes nowhere, and
// the disk space of the abandoned file is free as soon as its name is gone.
void H5File::absorb() noexcept {
  if (absorbed_) return;
  absorbed_ = true;
  void* descriptor = nullptr;
  if (H5Fget_vfd_handle(file_.get(), H5P_DEFAULT, &descriptor) < 0 || descriptor == nullptr) return;
  const int sink = memfd_create("qat-abandoned-checkpoint", MFD_CLOEXEC);
  if (sink < 0) return;
  (void)dup3(sink, *static_cast<int*>(descriptor), O_CLOEXEC);
  (void)::close(sink);
}

void H5File::abandon() noexcept {
  absorb();
  (void)H5Fclose(file_.release());
  (void)H5Eclear2(H5E_DEFAULT);
}

// H5Lexists wants every group on the way to be there.
bool H5File::exists(const std::string& path) const {
  for (std::size_t end = 1; end < path.size();) {
    end = std::min(path.find('/', end), path.size());
    const std::string prefix = path.substr(0, end++);
    if (QAT_H5_CHECK(H5Lexists(file_.get(), prefix.c_str(), H5P_DEFAULT), path_) == 0) return false;
  }
  return true;
}

void H5File::make_groups(const std::string& path) {
  if (path.empty() || path == "/" || exists(path)) return;
  make_groups(path.substr(0, path.rfind('/')));
  const H5Handle creation = creation_list(H5P_GROUP_CREATE, path_);
  const H5Handle group(
      QAT_H5_CHECK(H5Gcreate2(file_.get(), path.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), path_), H5Gclose);
}

void H5File::write_dataset(std::string_view name, const Shape& shape, ConstBufferView data) {
  QAT_CHECK(writable_ && file_.get() >= 0, "the file is not open for writing");
  const std::string path = canonical(name);
  const std::int64_t count = element_count(shape);
  QAT_CHECK(count == data.elems, fmt::format("{} has {} elements, {} were given", path, count, data.elems));
  QAT_CHECK(data.device == Device::kCpu, path + " is not in host memory");
  QAT_CHECK(shape.size() <= H5S_MAX_RANK, path + " has too many axes for HDF5");
  QAT_CHECK(path != "/" && !exists(path), path + " is written twice");

  const H5Handle space = make_space(shape, path_);
  const H5Handle creation = creation_list(H5P_DATASET_CREATE, path_);
  const H5Handle access(QAT_H5_CHECK(H5Pcreate(H5P_DATASET_ACCESS), path_), H5Pclose);
  if (shape.empty() || count == 0) {
    // Neither can be chunked; compact data lies in the object header, which has a checksum of its own.
    QAT_H5_CHECK(H5Pset_layout(creation.get(), H5D_COMPACT), path_);
  } else {
    const std::vector<H5Size> chunk = h5_chunk_shape(shape, static_cast<std::int64_t>(size_of(data.dtype)));
    QAT_H5_CHECK(H5Pset_chunk(creation.get(), static_cast<int>(chunk.size()), chunk.data()), path_);
    QAT_H5_CHECK(H5Pset_fill_time(creation.get(), H5D_FILL_TIME_NEVER), path_);
    QAT_H5_CHECK(H5Pset_fletcher32(creation.get()), path_);
    // Every chunk is written once and whole. Without a cache a write error shows here, not in some later close.
    QAT_H5_CHECK(H5Pset_chunk_cache(access.get(), /*slots=*/0, /*bytes=*/0, /*preemption=*/1.0), path_);
  }
  H5Handle dataset;
  const AbsorbOnError guard(*this);
  make_groups(path.substr(0, path.rfind('/')));
  dataset = H5Handle(QAT_H5_CHECK(H5Dcreate2(file_.get(), path.c_str(), h5_type(data.dtype, /*in_file=*/true),
                                             space.get(), H5P_DEFAULT, creation.get(), access.get()),
                                  path_),
                     H5Dclose);
  if (count > 0) {
    QAT_H5_CHECK(
        H5Dwrite(dataset.get(), h5_type(data.dtype, /*in_file=*/false), H5S_ALL, H5S_ALL, H5P_DEFAULT, data.data),
        path_);
  }
  QAT_H5_CHECK(H5Dclose(dataset.release()), path_);
}

bool H5File::has_dataset(std::string_view name) const {
  const std::string path = canonical(name);
  if (path == "/" || !exists(path)) return false;
  const H5Handle object(QAT_H5_CHECK(H5Oopen(file_.get(), path.c_str(), H5P_DEFAULT), path_), H5Oclose);
  return H5Iget_type(object.get()) == H5I_DATASET;
}

H5Handle H5File::open_dataset(const std::string& path) const {
  if (!has_dataset(path)) fail(path_, "no tensor " + path);
  return {QAT_H5_CHECK(H5Dopen2(file_.get(), path.c_str(), H5P_DEFAULT), path_), H5Dclose};
}

TensorInfo H5File::info_of(H5Id dataset, const std::string& path) const {
  const H5Handle type(QAT_H5_CHECK(H5Dget_type(dataset), path_), H5Tclose);
  const H5Handle space(QAT_H5_CHECK(H5Dget_space(dataset), path_), H5Sclose);
  const std::optional<DType> dtype = h5_dtype(type.get());
  if (!dtype) fail(path_, "tensor " + path + " has an element type that this program does not read");
  std::vector<hsize_t> dims(static_cast<std::size_t>(QAT_H5_CHECK(H5Sget_simple_extent_ndims(space.get()), path_)));
  QAT_H5_CHECK(H5Sget_simple_extent_dims(space.get(), dims.data(), nullptr), path_);
  TensorInfo info{path, *dtype, Shape(dims.begin(), dims.end())};
  // Nothing is compressed, so what a tensor claims to hold must be there: a torn file cannot make a reader allocate
  // more than the file's size, nor hand out fill values for chunks that were never written.
  const hsize_t stored = H5Dget_storage_size(dataset);
  hsize_t claimed = size_of(*dtype);
  bool overflow = false;
  for (const hsize_t extent : dims) overflow |= __builtin_mul_overflow(claimed, extent, &claimed);
  if (overflow || claimed > stored) {
    fail(path_, fmt::format("tensor {} is not whole: {} needs more than the {} bytes stored", path,
                            describe(info.dtype, info.shape), stored));
  }
  return info;
}

TensorInfo H5File::dataset_info(std::string_view name) const {
  const std::string path = canonical(name);
  const H5Handle dataset = open_dataset(path);
  return info_of(dataset.get(), path);
}

void H5File::read_dataset(std::string_view name, const Shape& shape, BufferView out) const {
  const std::string path = canonical(name);
  QAT_CHECK(element_count(shape) == out.elems && out.device == Device::kCpu, path + ": the buffer does not fit");
  const H5Handle dataset = open_dataset(path);
  const TensorInfo info = info_of(dataset.get(), path);
  if (info.dtype != out.dtype || info.shape != shape) {
    fail(path_, fmt::format("tensor {}: expected {}, found {}", path, describe(out.dtype, shape),
                            describe(info.dtype, info.shape)));
  }
  if (out.elems == 0) return;
  const herr_t status =
      H5Dread(dataset.get(), h5_type(out.dtype, /*in_file=*/false), H5S_ALL, H5S_ALL, H5P_DEFAULT, out.data);
  QAT_H5_CHECK(status, path_ / path.substr(1));  // the message then names the tensor whose checksum is wrong
}

std::vector<std::string> H5File::list_datasets(std::string_view group) const {
  const std::string base = canonical(group);
  std::vector<std::string> names;
  if (base != "/" && !exists(base)) return names;
  std::vector<std::string> links;
  const auto collect = [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
    static_cast<std::vector<std::string>*>(out)->emplace_back(name);
    return 0;
  };
  QAT_H5_CHECK(H5Lvisit_by_name(file_.get(), base.c_str(), H5_INDEX_NAME, H5_ITER_NATIVE, collect, &links, H5P_DEFAULT),
               path_);
  for (const std::string& link : links) {
    std::string path = fmt::format("{}/{}", base == "/" ? "" : base, link);
    if (has_dataset(path)) names.push_back(std::move(path));
  }
  std::sort(names.begin(), names.end());
  return names;
}

void H5File::set_attribute(std::string_view object, const std::string& key, const Attribute& value) {
  QAT_CHECK(writable_ && file_.get() >= 0, "the file is not open for writing");
  const std::string path = canonical(object);
  const H5Handle space(QAT_H5_CHECK(H5Screate(H5S_SCALAR), path_), H5Sclose);
  H5Handle string_type;
  H5Id file_type = H5T_STD_I64LE;
  H5Id memory_type = H5T_NATIVE_INT64;
  const void* bytes = std::get_if<std::int64_t>(&value);
  if (const double* number = std::get_if<double>(&value)) {
    file_type = H5T_IEEE_F64LE;
    memory_type = H5T_NATIVE_DOUBLE;
    bytes = number;
  } else if (const std::string* text = std::get_if<std::string>(&value)) {
    string_type = H5Handle(QAT_H5_CHECK(H5Tcopy(H5T_C_S1), path_), H5Tclose);
    QAT_H5_CHECK(H5Tset_size(string_type.get(), text->size() + 1), path_);  // with its NUL: no string is empty
    QAT_H5_CHECK(H5Tset_cset(string_type.get(), H5T_CSET_UTF8), path_);
    file_type = memory_type = string_type.get();
    bytes = text->c_str();
  }
  H5Handle owner;
  H5Handle attribute;
  const AbsorbOnError guard(*this);
  make_groups(path);
  owner = H5Handle(QAT_H5_CHECK(H5Oopen(file_.get(), path.c_str(), H5P_DEFAULT), path_), H5Oclose);
  if (QAT_H5_CHECK(H5Aexists(owner.get(), key.c_str()), path_) > 0) {
    QAT_H5_CHECK(H5Adelete(owner.get(), key.c_str()), path_);
  }
  attribute = H5Handle(
      QAT_H5_CHECK(H5Acreate2(owner.get(), key.c_str(), file_type, space.get(), H5P_DEFAULT, H5P_DEFAULT), path_),
      H5Aclose);
  QAT_H5_CHECK(H5Awrite(attribute.get(), memory_type, bytes), path_);
  QAT_H5_CHECK(H5Aclose(attribute.release()), path_);
  QAT_H5_CHECK(H5Oclose(owner.release()), path_);
}

bool H5File::has_attribute(std::string_view object, const std::string& key) const {
  const std::string path = canonical(object);
  if (path != "/" && !exists(path)) return false;
  return QAT_H5_CHECK(H5Aexists_by_name(file_.get(), path.c_str(), key.c_str(), H5P_DEFAULT), path_) > 0;
}

H5Handle H5File::open_attribute(std::string_view object, const std::string& key) const {
  const std::string path = canonical(object);
  if (!has_attribute(path, key)) fail(path_, fmt::format("no attribute '{}' on {}", key, path));
  return {QAT_H5_CHECK(H5Aopen_by_name(file_.get(), path.c_str(), key.c_str(), H5P_DEFAULT, H5P_DEFAULT), path_),
          H5Aclose};
}

Attribute H5File::attribute(std::string_view object, const std::string& key) const {
  const H5Handle attribute = open_attribute(object, key);
  const H5Handle type(QAT_H5_CHECK(H5Aget_type(attribute.get()), path_), H5Tclose);
  const H5Handle space(QAT_H5_CHECK(H5Aget_space(attribute.get()), path_), H5Sclose);
  const H5T_class_t cls = H5Tget_class(type.get());
  const bool scalar = H5Sget_simple_extent_npoints(space.get()) == 1;
  if (scalar && cls == H5T_INTEGER) {
    std::int64_t number = 0;
    QAT_H5_CHECK(H5Aread(attribute.get(), H5T_NATIVE_INT64, &number), path_);
    return number;
  }
  if (scalar && cls == H5T_FLOAT) {
    double number = 0.0;
    QAT_H5_CHECK(H5Aread(attribute.get(), H5T_NATIVE_DOUBLE, &number), path_);
    return number;
  }
  const std::uintmax_t bytes = H5Tget_size(type.get());
  if (!scalar || cls != H5T_STRING || H5Tis_variable_str(type.get()) != 0 ||
      bytes > std::filesystem::file_size(path_)) {
    fail(path_, fmt::format("attribute '{}' on {} is not a number or a fixed-length string", key, object));
  }
  std::string text(static_cast<std::size_t>(bytes), '\0');
  QAT_H5_CHECK(H5Aread(attribute.get(), type.get(), text.data()), path_);
  if (!text.empty()) text.pop_back();
  return text;
}

}  // namespace qat

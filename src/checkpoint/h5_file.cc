#include "src/checkpoint/h5_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <hdf5.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "kernels/common/error.h"
#include "src/checkpoint/h5_internal.h"
#include "src/checkpoint/h5_types.h"

namespace qat {
namespace {

H5Handle access_list(const std::filesystem::path& file) {
  H5Handle list(QAT_H5_CHECK(H5Pcreate(H5P_FILE_ACCESS), file), H5Pclose);
  // The 1.10 format checksums its metadata; older ones do not.
  QAT_H5_CHECK(H5Pset_libver_bounds(list.get(), H5F_LIBVER_V110, H5F_LIBVER_V110), file);
  QAT_H5_CHECK(H5Pset_fclose_degree(list.get(), H5F_CLOSE_STRONG), file);
  // Some network file systems have no locks, and a checkpoint is never shared while it is written.
  QAT_H5_CHECK(H5Pset_file_locking(list.get(), /*use_file_locking=*/false, /*ignore_when_disabled=*/true), file);
  return list;
}

}  // namespace

std::string h5_canonical(std::string_view name) {
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

H5Handle h5_creation_list(H5Id cls, const std::filesystem::path& file) {
  H5Handle list(QAT_H5_CHECK(H5Pcreate(cls), file), H5Pclose);
  QAT_H5_CHECK(H5Pset_obj_track_times(list.get(), false), file);
  return list;
}

void h5_refuse(const std::filesystem::path& file, const std::string& what) {
  throw Error(ErrorKind::kCheckpoint, file.string() + ": " + what);
}

H5File::H5File(std::filesystem::path path, H5Handle file, bool writable)
    : path_(std::move(path)), file_(std::move(file)), writable_(writable) {}

H5File H5File::create(const std::filesystem::path& path) {
  const auto lock = h5_lock();
  h5_prepare();
  const H5Handle access = access_list(path);
  const H5Handle creation = h5_creation_list(H5P_FILE_CREATE, path);
  H5Handle file(QAT_H5_CHECK(H5Fcreate(path.c_str(), H5F_ACC_EXCL, creation.get(), access.get()), path), H5Fclose);
  return {path, std::move(file), /*writable=*/true};
}

H5File H5File::open(const std::filesystem::path& path) {
  const auto lock = h5_lock();
  h5_prepare();
  const H5Handle access = access_list(path);
  H5Handle file(QAT_H5_CHECK(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), path), H5Fclose);
  return {path, std::move(file), /*writable=*/false};
}

H5File::~H5File() {
  const auto lock = h5_lock();
  if (writable_ && file_.get() >= 0) abandon();
  file_ = H5Handle();  // closed while the lock is held
}

void H5File::close() {
  const auto lock = h5_lock();
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
  const H5Handle creation = h5_creation_list(H5P_GROUP_CREATE, path_);
  const H5Handle group(
      QAT_H5_CHECK(H5Gcreate2(file_.get(), path.c_str(), H5P_DEFAULT, creation.get(), H5P_DEFAULT), path_), H5Gclose);
}

bool H5File::has_dataset(std::string_view name) const {
  const auto lock = h5_lock();
  const std::string path = h5_canonical(name);
  if (path == "/" || !exists(path)) return false;
  const H5Handle object(QAT_H5_CHECK(H5Oopen(file_.get(), path.c_str(), H5P_DEFAULT), path_), H5Oclose);
  return H5Iget_type(object.get()) == H5I_DATASET;
}

std::vector<std::string> H5File::list_datasets(std::string_view group) const {
  const auto lock = h5_lock();
  const std::string base = h5_canonical(group);
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
  const auto lock = h5_lock();
  QAT_CHECK(writable_ && file_.get() >= 0, "the file is not open for writing");
  const std::string path = h5_canonical(object);
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
  const auto lock = h5_lock();
  const std::string path = h5_canonical(object);
  if (path != "/" && !exists(path)) return false;
  return QAT_H5_CHECK(H5Aexists_by_name(file_.get(), path.c_str(), key.c_str(), H5P_DEFAULT), path_) > 0;
}

H5Handle H5File::open_attribute(std::string_view object, const std::string& key) const {
  const std::string path = h5_canonical(object);
  if (!has_attribute(path, key)) h5_refuse(path_, fmt::format("no attribute '{}' on {}", key, path));
  return {QAT_H5_CHECK(H5Aopen_by_name(file_.get(), path.c_str(), key.c_str(), H5P_DEFAULT, H5P_DEFAULT), path_),
          H5Aclose};
}

Attribute H5File::attribute(std::string_view object, const std::string& key) const {
  const auto lock = h5_lock();
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
  // Of the file that is open: its name may be gone by now.
  hsize_t most = 0;
  QAT_H5_CHECK(H5Fget_filesize(file_.get(), &most), path_);
  const std::uintmax_t bytes = H5Tget_size(type.get());
  if (!scalar || cls != H5T_STRING || H5Tis_variable_str(type.get()) != 0 || bytes > most) {
    h5_refuse(path_, fmt::format("attribute '{}' on {} is not a number or a fixed-length string", key, object));
  }
  std::string text(static_cast<std::size_t>(bytes), '\0');
  QAT_H5_CHECK(H5Aread(attribute.get(), type.get(), text.data()), path_);
  if (!text.empty()) text.pop_back();
  return text;
}

}  // namespace qat

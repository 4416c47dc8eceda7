// Ownership and error text for the HDF5 C API. hdf5.h itself stays in the h5_*.cc files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <mutex>
#include <string>
#include <utility>

namespace qat {

using H5Id = std::int64_t;  // hid_t; h5_handle.cc asserts that they are one type

// HDF5 takes one thread at a time, over all files of the process. Whoever calls it holds this lock, for no longer than
// the calls that belong together; the same thread may take it again.
std::unique_lock<std::recursive_mutex> h5_lock();

// Owns one HDF5 identifier (file, dataset, dataspace, ...) and the function that closes it: under h5_lock(), too.
class H5Handle {
 public:
  using Closer = int (*)(H5Id);  // H5Dclose and its like

  H5Handle() = default;
  H5Handle(H5Id id, Closer closer) : id_(id), closer_(closer) {}
  H5Handle(H5Handle&& other) noexcept : id_(other.release()), closer_(other.closer_) {}
  H5Handle& operator=(H5Handle&& other) noexcept {
    std::swap(id_, other.id_);
    std::swap(closer_, other.closer_);
    return *this;
  }
  ~H5Handle() {
    if (id_ >= 0) (void)closer_(id_);
  }

  H5Id get() const noexcept { return id_; }
  H5Id release() noexcept { return std::exchange(id_, -1); }

 private:
  H5Id id_ = -1;
  Closer closer_ = nullptr;
};

// Must run before any other HDF5 call of the process: no error text on stderr, and no clean-up at exit. Whatever must
// reach the disk is flushed and closed by hand; an exit handler could only repeat a write that has already failed.
void h5_prepare();

// Identifiers of files and what is in them that HDF5 holds open, over the whole process.
std::int64_t h5_open_objects();

// Throws Error(kCheckpoint) with HDF5's own error stack in words, and clears that stack.
[[noreturn]] void throw_h5_error(const char* call, const std::filesystem::path& file, const char* source, int line);

template <typename Result>
Result h5_check(Result result, const char* call, const std::filesystem::path& file, const char* source, int line) {
  if (result < 0) throw_h5_error(call, file, source, line);
  return result;
}

}  // namespace qat

// The result of an HDF5 call that was made for `file`; throws when HDF5 reports a failure. A macro only because the
// message quotes the call and its place.
#define QAT_H5_CHECK(call, file) ::qat::h5_check((call), #call, (file), __FILE__, __LINE__)

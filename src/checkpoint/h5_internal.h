// What the files that H5File is made of share. Internal to the h5_* files.
#pragma once

#include <exception>
#include <filesystem>
#include <string>
#include <string_view>

#include "src/checkpoint/h5_file.h"
#include "src/checkpoint/h5_handle.h"

namespace qat {

// Absolute, without empty, "." or ".." components, which HDF5 would take for something else than a name.
std::string h5_canonical(std::string_view name);

// A property list that stores no time stamps.
H5Handle h5_creation_list(H5Id cls, const std::filesystem::path& file);

[[noreturn]] void h5_refuse(const std::filesystem::path& file, const std::string& what);

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

}  // namespace qat

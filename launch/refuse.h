#pragma once

#include <string>

#include "kernels/common/error.h"

namespace qat::launch {

// What a command is asked for and will not do.
[[noreturn]] inline void refuse(const std::string& what) { throw Error(ErrorKind::kConfig, what); }

}  // namespace qat::launch

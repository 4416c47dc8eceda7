// Text that is on every Debian and Ubuntu system: the licence texts of the package base-files, 237 kB of English. A
// training run needs no download and no files of its own.
//
// The regular files of the folder in order of name (symbolic links, which are second names, skipped), each a document
// of ByteTokenizer tokens that begins with end_of_text(). The last tenth of each document is held out (Split::kVal).
#pragma once

#include <string>

#include "src/data/token_source.h"

namespace qat {

inline constexpr const char* kBuiltinFolder = "/usr/share/common-licenses";

TokenSource builtin_text(Split split, const std::string& folder = kBuiltinFolder);

}  // namespace qat

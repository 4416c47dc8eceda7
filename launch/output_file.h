// Files that a command writes when its work is done.
#pragma once

#include <string>
#include <string_view>

namespace qat::launch {

// Before the work: makes the folder of `file`, which the command's option names, and finds what would be in the way of
// writing there. Error(kConfig). Nothing where no file is named.
void prepare_output_file(const std::string& file, std::string_view option);

}  // namespace qat::launch

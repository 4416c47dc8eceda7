// What a run says of itself before its first step: blocks of lines, for the console and the log.
#pragma once

#include <string>
#include <vector>

#include "src/config/loader.h"

namespace qat::launch {

// "[Layout]", and the lines below it, indented. One entry of the log.
std::string start_block(const std::string& name, const std::vector<std::string>& lines);

// The keys that are not at their defaults, as --set takes them, several on a line.
std::vector<std::string> changed_options(const LoadResult& loaded);

}  // namespace qat::launch

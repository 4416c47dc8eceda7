// What is looked at before the first document is read: the inputs of `qat_dist tokenize` by name, and what earlier runs
// left at its output.
#pragma once

#include <string>
#include <vector>

#include "kernels/common/error.h"

namespace qat {

// The files that the inputs name, in the order given, those of a glob by name; "-" is standard input. All that cannot
// be read (not there, a folder, no permission) are one kData error; a file that is named twice, whatever its spelling
// or link, and one of `outputs`, which would be written over, are kConfig errors.
std::vector<std::string> find_inputs(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs);

// Files of an earlier run with this prefix, by name: PREFIX_val.bin, PREFIX_train_<digits>.bin. kData if one of them is
// a folder, which no file can replace.
std::vector<std::string> existing_shards(const std::string& prefix);

// Throws an error of a heading and a line for each item, as many as a terminal shows.
[[noreturn]] void refuse_all(ErrorKind kind, const std::string& heading, const std::vector<std::string>& items,
                             const std::string& closing = {});

}  // namespace qat

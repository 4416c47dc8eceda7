// Files with names for the columns of tables.
#pragma once

#include <string>
#include <vector>

namespace qat::launch {

struct NamedFile {
  std::string name, path;
};

// Of each one given, FILE, NAME=FILE, a glob or a folder, whose files with this ending (".jsonl") are meant. Without a
// name a file is called as it is without folder and ending. What does not exist stays as it is: opening it fails.
// Throws Error(kConfig), naming the option, for a name of several files, two files of one name, and a folder without
// files.
std::vector<NamedFile> named_files(const std::vector<std::string>& given, const std::string& option,
                                   const std::string& ending);

// Whether it is a folder with such files.
bool has_files(const std::string& folder, const std::string& ending);

}  // namespace qat::launch

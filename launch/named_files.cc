// Files with names for tables: NAME=FILE.
#include "launch/named_files.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "src/data/token_source.h"

namespace qat::launch {
namespace {

std::vector<std::string> listed(const std::string& folder, const std::string& ending, std::error_code& unreadable) {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder, unreadable))
    if (entry.path().extension() == ending) files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> files_in(const std::string& folder, const std::string& option, const std::string& ending) {
  std::error_code unreadable;
  std::vector<std::string> files = listed(folder, ending, unreadable);
  if (files.empty())
    throw Error(ErrorKind::kConfig, fmt::format("{}: the folder {} has no {} file that can be listed{}", option, folder,
                                                ending, unreadable ? ": " + unreadable.message() : ""));
  return files;
}

std::vector<std::string> files_of(const std::string& pattern, const std::string& option, const std::string& ending) {
  std::error_code unreadable;
  if (std::filesystem::is_directory(pattern, unreadable)) return files_in(pattern, option, ending);
  try {
    return expand_patterns({pattern});
  } catch (const Error&) {
    return {pattern};
  }
}

}  // namespace

bool has_files(const std::string& folder, const std::string& ending) {
  std::error_code unreadable;
  return !listed(folder, ending, unreadable).empty();
}

std::vector<NamedFile> named_files(const std::vector<std::string>& given, const std::string& option,
                                   const std::string& folder_ending) {
  std::vector<NamedFile> files;
  std::set<std::string> names;
  for (const std::string& one : given) {
    const std::size_t equals = one.find('=');
    std::error_code unreadable;
    const bool named = equals != std::string::npos && equals > 0 && !std::filesystem::exists(one, unreadable);
    if (named && equals + 1 == one.size())
      throw Error(ErrorKind::kConfig,
                  fmt::format("{} is \"{}\": expected a file behind the name, NAME=FILE", option, one));
    const auto paths = files_of(named ? one.substr(equals + 1) : one, option, folder_ending);
    if (named && paths.size() > 1)
      throw Error(ErrorKind::kConfig,
                  fmt::format("{} {}: the name is for one file, and these are {}", option, one, paths.size()));
    for (const std::string& path : paths) {
      files.push_back({named ? one.substr(0, equals) : std::filesystem::path(path).stem().string(), path});
      if (!names.insert(files.back().name).second)
        throw Error(ErrorKind::kConfig, fmt::format("{}: two files are called \"{}\": name one of them by NAME=FILE",
                                                    option, files.back().name));
    }
  }
  return files;
}

}  // namespace qat::launch

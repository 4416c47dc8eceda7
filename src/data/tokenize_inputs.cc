#include "src/data/tokenize_inputs.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <optional>
#include <utility>

#include "src/data/token_source.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

using FileIdentity = std::pair<::dev_t, ::ino_t>;

std::string shown(const std::string& input) { return input == "-" ? "standard input" : input; }

std::string shown_twice(const std::string& first, const std::string& second) {
  if (first == second) return fmt::format("{} is named twice", shown(first));
  return fmt::format("{} and {} are the same file, named twice", shown(first), shown(second));
}

std::optional<FileIdentity> identity_of(const std::string& path) {
  struct stat status {};
  if ((path == "-" ? ::fstat(STDIN_FILENO, &status) : ::stat(path.c_str(), &status)) != 0) return std::nullopt;
  return FileIdentity{status.st_dev, status.st_ino};
}

// Why the input cannot be read, as far as that shows without opening it (opening a pipe waits for its writer); empty:
// nothing is in the way.
std::string obstacle(const std::string& path) {
  struct stat status {};
  if ((path == "-" ? ::fstat(STDIN_FILENO, &status) : ::stat(path.c_str(), &status)) != 0) return std::strerror(errno);
  if (S_ISDIR(status.st_mode))
    return "a folder; name the files in it, such as '" + (fs::path(path) / "*.txt").string() + "'";
  if (path != "-" && ::faccessat(AT_FDCWD, path.c_str(), R_OK, AT_EACCESS) != 0) return std::strerror(errno);
  return "";
}

}  // namespace

std::vector<std::string> find_inputs(const std::vector<std::string>& inputs, const std::vector<std::string>& outputs) {
  std::vector<std::string> paths, unreadable;
  for (const std::string& input : inputs) {
    try {
      for (std::string& path : input == "-" ? std::vector<std::string>{input} : expand_patterns({input})) {
        if (const std::string reason = obstacle(path); !reason.empty()) {
          unreadable.push_back(fmt::format("{}: {}", shown(path), reason));
        }
        paths.push_back(std::move(path));
      }
    } catch (const Error& error) {  // a pattern without a match
      unreadable.push_back(error.what());
    }
  }
  if (!unreadable.empty()) {
    refuse_all(ErrorKind::kData, fmt::format("tokenize: {} of the inputs cannot be read", unreadable.size()),
               unreadable);
  }
  std::map<FileIdentity, std::string> seen;
  std::vector<std::string> twice;
  for (const std::string& path : paths) {
    if (const auto identity = identity_of(path)) {
      const auto [first, fresh] = seen.emplace(*identity, path);
      if (!fresh) twice.push_back(shown_twice(first->second, path));
    }
  }
  if (!twice.empty()) refuse_all(ErrorKind::kConfig, "tokenize: an input may be read once", twice);
  std::vector<std::string> written_over;
  for (const std::string& output : outputs) {
    const auto identity = identity_of(output);
    if (const auto same = identity ? seen.find(*identity) : seen.end(); same != seen.end()) {
      written_over.push_back(same->second);
    }
  }
  if (!written_over.empty()) {
    refuse_all(ErrorKind::kConfig, "tokenize: inputs that the output would replace (choose another output prefix)",
               written_over);
  }
  return paths;
}

std::vector<std::string> existing_shards(const std::string& prefix) {
  const fs::path base(prefix);
  const fs::path folder = base.has_parent_path() ? base.parent_path() : fs::path(".");
  const std::string train = base.filename().string() + "_train_", val = base.filename().string() + "_val.bin";
  std::vector<std::string> found;
  std::error_code missing;  // a folder that is not there, or cannot be read, is reported when it is made
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, missing)) {
    const std::string name = entry.path().filename().string();
    bool is_train = name.starts_with(train) && name.ends_with(".bin") && name.size() > train.size() + 4;
    for (std::size_t i = train.size(); is_train && i + 4 < name.size(); ++i)
      is_train = name[i] >= '0' && name[i] <= '9';
    if (!is_train && name != val) continue;
    found.push_back((base.parent_path() / name).string());
    std::error_code ignored;
    if (entry.is_directory(ignored)) {
      throw Error(ErrorKind::kData, fmt::format("{} is a folder; a token shard of this name is to be written: choose "
                                                "another output prefix",
                                                found.back()));
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

void refuse_all(ErrorKind kind, const std::string& heading, const std::vector<std::string>& items,
                const std::string& closing) {
  constexpr std::size_t kShown = 10;
  std::string message = heading + ":";
  for (std::size_t i = 0; i < std::min(items.size(), kShown); ++i) message += "\n  " + items[i];
  if (items.size() > kShown) message += fmt::format("\n  ... and {} more", items.size() - kShown);
  if (!closing.empty()) message += "\n" + closing;
  throw Error(kind, message);
}

}  // namespace qat

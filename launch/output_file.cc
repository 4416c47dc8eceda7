#include "launch/output_file.h"

#include <fmt/format.h>

#include <filesystem>

#include "launch/refuse.h"
#include "src/base/file.h"

namespace qat::launch {

void prepare_output_file(const std::string& file, std::string_view option) {
  if (file.empty()) return;
  if (std::filesystem::is_directory(file)) refuse(fmt::format("{} is \"{}\", a folder: name a file", option, file));
  const std::filesystem::path folder = std::filesystem::path(file).parent_path();
  create_directories_checked(folder.empty() ? "." : folder, fmt::format("the folder of {}", option));
}

}  // namespace qat::launch

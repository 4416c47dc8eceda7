#include "src/data/builtin_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/text/tokenizer.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_folder(const std::string& folder, const std::string& what) {
  throw Error(
      ErrorKind::kData,
      fmt::format("the built-in text {} {}. Set data.train and data.val to token shards of your own: "
                  "`qat_dist tokenize` makes them from any text (on Debian and Ubuntu the folder comes with the "
                  "package base-files)",
                  folder, what));
}

std::vector<fs::path> documents_of(const std::string& folder) {
  std::error_code code;
  fs::directory_iterator entries(folder, code);
  if (code) fail_folder(folder, fmt::format("cannot be read: {}", code.message()));
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : entries) {
    if (!entry.is_symlink() && entry.is_regular_file()) paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

TokenSource builtin_text(Split split, const std::string& folder) {
  std::vector<std::uint16_t> tokens;
  for (const fs::path& path : documents_of(folder)) {
    const std::string text = read_file(path);
    const std::size_t train_bytes = text.size() - text.size() / 10;
    const std::string_view part = split == Split::kTrain ? std::string_view(text).substr(0, train_bytes)
                                                         : std::string_view(text).substr(train_bytes);
    if (part.empty()) continue;
    tokens.push_back(ByteTokenizer::kEndOfTextId);
    for (const char byte : part) tokens.push_back(static_cast<unsigned char>(byte));
  }
  if (tokens.empty()) fail_folder(folder, "holds no text");
  TokenSource source;
  source.add_tokens(fmt::format("{} ({} part)", folder, split == Split::kTrain ? "training" : "held-out"),
                    std::move(tokens));
  return source;
}

}  // namespace qat

#include "src/generate/prompt_file.h"

#include <fmt/format.h>

#include <string_view>

#include "kernels/common/error.h"
#include "src/base/file.h"
#include "src/base/json.h"

namespace qat {
namespace {

std::string prompt_of(std::string_view line, const std::string& where) {
  const Value value = parse_json(line, where, ErrorKind::kData);
  const Value* prompt = value.is_object() ? value.find("prompt") : nullptr;
  if (prompt == nullptr || !prompt->is_string())
    throw Error(ErrorKind::kData,
                fmt::format("{}: {} is no prompt: expected an object such as {{\"prompt\": \"text\"}}", where,
                            to_json(value).substr(0, 80)));
  return prompt->as_string();
}

}  // namespace

std::vector<std::string> read_prompts(const std::string& path) {
  const std::string file = read_file(path);
  // An editor's mark at the beginning is no part of the first prompt.
  std::string_view text = file;
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  const bool json = path.ends_with(".jsonl");
  std::vector<std::string> prompts;
  std::size_t number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    begin = end + 1;
    ++number;
    if (!json)
      prompts.emplace_back(line);
    else if (line.find_first_not_of(" \t") != std::string_view::npos)
      prompts.push_back(prompt_of(line, fmt::format("{}, line {}", path, number)));
  }
  if (prompts.empty()) throw Error(ErrorKind::kData, fmt::format("{} has no prompt: expected one a line", path));
  return prompts;
}

}  // namespace qat

#include "src/report/json_lines.h"

#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace qat {
namespace {

// The object of a line; nothing if it is torn.
std::optional<Value> object_of(std::string_view line, const std::string& source) {
  try {
    Value object = parse_json(line, source);
    const Value* step = object.is_object() ? object.find("step") : nullptr;
    return step != nullptr && step->is_int() ? std::optional(std::move(object)) : std::nullopt;
  } catch (const Error&) {
    return std::nullopt;  // torn
  }
}

}  // namespace

AppendFile JsonLinesFile::drop_and_open(const std::filesystem::path& path, std::int64_t next_step) {
  if (std::filesystem::exists(path)) {
    const std::string old = read_file(path, ErrorKind::kConfig);
    std::string kept;
    kept.reserve(old.size());
    for (std::string_view rest = old; !rest.empty();) {
      const std::size_t end = rest.find('\n');
      const std::string_view line = rest.substr(0, end);
      // A line without its end was being written when the process died; its object may look complete and yet not be.
      const std::optional<Value> object = end != std::string_view::npos ? object_of(line, path.string()) : std::nullopt;
      if (object && object->at("step").as_int() < next_step) {
        kept.append(line).push_back('\n');
        ++kept_;
      } else {
        ++dropped_;
      }
      rest.remove_prefix(end == std::string_view::npos ? rest.size() : end + 1);
    }
    if (dropped_ > 0) write_file_atomic(path, kept);
  }
  return AppendFile(path);
}

JsonLinesFile::JsonLinesFile(const std::filesystem::path& path, std::int64_t next_step)
    : file_(drop_and_open(path, next_step)) {}

void JsonLinesFile::append(const Value& object) {
  QAT_CHECK(object.find("step") != nullptr, "a line of this file has a step");
  file_.append(to_json(object));
}

void for_each_json_line(const std::filesystem::path& path, const std::function<void(const Value&)>& use) {
  if (!std::filesystem::exists(path)) return;
  const std::string text = read_file(path, ErrorKind::kConfig);
  std::string_view rest = text;
  for (std::size_t end = rest.find('\n'); end != std::string_view::npos; end = rest.find('\n')) {
    const std::string_view line = rest.substr(0, end);
    rest.remove_prefix(end + 1);
    if (const std::optional<Value> object = object_of(line, path.string())) use(*object);
  }
}

}  // namespace qat

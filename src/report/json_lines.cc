#include "src/report/json_lines.h"

#include <string>
#include <string_view>

namespace qat {
namespace {

bool is_before(std::string_view line, std::int64_t next_step) {
  try {
    const Value object = parse_json(line, "line");
    const Value* step = object.is_object() ? object.find("step") : nullptr;
    return step != nullptr && step->as_int() < next_step;
  } catch (const Error&) {
    return false;  // torn
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
      if (end != std::string_view::npos && is_before(line, next_step)) {
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

}  // namespace qat

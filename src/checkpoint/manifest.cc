#include "src/checkpoint/manifest.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <system_error>

#include "kernels/common/error.h"
#include "src/checkpoint/durable_file.h"

namespace qat {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr char kFormat[] = "qat_dist checkpoint";
constexpr std::int64_t kMaxManifestBytes = 1 << 20;

[[noreturn]] void refuse(const fs::path& source, const std::string& what) {
  throw Error(ErrorKind::kCheckpoint, source.string() + ": " + what);
}

// The value of a key that must be there. Every key written today must: a damaged one is not overlooked.
const Json& member(const Json& object, const char* key, const fs::path& source) {
  if (!object.is_object() || !object.contains(key)) refuse(source, fmt::format("expected an object with \"{}\"", key));
  return object.at(key);
}

std::int64_t integer(const Json& value, const char* key, const fs::path& source) {
  if (!value.is_number_unsigned() || value.get<std::uint64_t>() > std::numeric_limits<std::int64_t>::max()) {
    refuse(source, fmt::format("\"{}\" is not a whole number from 0 on", key));
  }
  return value.get<std::int64_t>();
}

std::string text_of(const Json& value, const char* key, const fs::path& source) {
  if (!value.is_string()) refuse(source, fmt::format("\"{}\" is not a string", key));
  return value.get<std::string>();
}

ManifestFile parse_file(const Json& entry, const fs::path& source) {
  ManifestFile file;
  file.name = text_of(member(entry, "name", source), "name", source);
  // A name may not lead out of the folder.
  if (file.name.empty() || file.name.starts_with('.') ||
      file.name.find_first_of(std::string("/\0", 2)) != file.name.npos) {
    refuse(source, "\"name\" is not the name of a file in this folder");
  }
  file.bytes = integer(member(entry, "bytes", source), "bytes", source);
  const std::string hex = text_of(member(entry, "xxh3", source), "xxh3", source);
  const auto [end, status] = std::from_chars(hex.data(), hex.data() + hex.size(), file.xxh3, 16);
  if (hex.size() != 16 || status != std::errc{} || end != hex.data() + hex.size()) {
    refuse(source, "\"xxh3\" is not a hash of 16 hexadecimal digits");
  }
  return file;
}

}  // namespace

std::int64_t Manifest::bytes() const noexcept {
  std::int64_t sum = 0;
  for (const ManifestFile& file : files) sum += file.bytes;
  return sum;
}

std::string to_json(const Manifest& manifest) {
  Json files = Json::array();
  for (const ManifestFile& file : manifest.files) {
    files.push_back({{"name", file.name}, {"bytes", file.bytes}, {"xxh3", fmt::format("{:016x}", file.xxh3)}});
  }
  const Json json = {
      {"format", kFormat}, {"version", kManifestVersion}, {"step", manifest.step}, {"files", std::move(files)}};
  return json.dump(2) + "\n";
}

Manifest parse_manifest(std::string_view text, const fs::path& source) {
  Json json;
  try {
    json = Json::parse(text);
  } catch (const Json::exception& error) {
    refuse(source, std::string("not JSON: ") + error.what());
  }
  if (!json.is_object() || json.value("format", Json()) != kFormat) {
    refuse(source, fmt::format("not a manifest: expected \"format\": \"{}\"", kFormat));
  }
  // Before the other keys: in a newer version they may mean something else.
  const std::int64_t version = integer(json.value("version", Json()), "version", source);
  if (version < 1 || version > kManifestVersion) {
    refuse(source, fmt::format("format version {}, this program reads versions 1 to {}: use the program that wrote it, "
                               "or a newer one",
                               version, kManifestVersion));
  }
  Manifest manifest;
  manifest.step = integer(member(json, "step", source), "step", source);
  const Json& files = member(json, "files", source);
  if (!files.is_array() || files.empty()) refuse(source, "\"files\" is not a list of files");
  std::int64_t bytes = 0;
  for (const Json& entry : files) {
    manifest.files.push_back(parse_file(entry, source));
    if (__builtin_add_overflow(bytes, manifest.files.back().bytes, &bytes)) refuse(source, "\"bytes\" is out of range");
  }
  const auto is_main = [](const ManifestFile& file) { return file.name == kCheckpointFileName; };
  if (std::none_of(manifest.files.begin(), manifest.files.end(), is_main)) {
    refuse(source, fmt::format("\"files\" lacks {}", kCheckpointFileName));
  }
  return manifest;
}

Manifest read_manifest(const fs::path& folder, bool hash) {
  const fs::path source = folder / kManifestName;
  std::error_code error;
  if (!fs::is_regular_file(source, error))
    refuse(folder, fmt::format("no {}: not a complete checkpoint", kManifestName));
  Manifest manifest = parse_manifest(read_small_file(source, kMaxManifestBytes), source);
  for (const ManifestFile& file : manifest.files) {
    const fs::path path = folder / file.name;
    if (!fs::is_regular_file(path, error)) refuse(path, "missing");
    const std::uintmax_t bytes = fs::file_size(path, error);
    if (error || std::cmp_not_equal(bytes, file.bytes)) {
      refuse(path,
             fmt::format("expected {} bytes, found {}", file.bytes, error ? error.message() : std::to_string(bytes)));
    }
    if (!hash) continue;
    if (const std::uint64_t found = hash_file(path); found != file.xxh3) {
      refuse(path, fmt::format("damaged: XXH3 expected {:016x}, found {:016x}", file.xxh3, found));
    }
  }
  return manifest;
}

}  // namespace qat

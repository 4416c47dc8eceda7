#include "src/data/token_source.h"

#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

#include "kernels/common/error.h"
#include "src/data/builtin_text.h"

namespace qat {
namespace {

constexpr const char* kBuiltin = "builtin";

// Sorted by bytes, not by glob's locale: every rank must see one order.
std::vector<std::string> glob_files(const std::string& pattern) {
  ::glob_t matches{};
  const int code = ::glob(pattern.c_str(), GLOB_NOSORT | GLOB_BRACE | GLOB_TILDE, nullptr, &matches);
  std::vector<std::string> paths(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
  ::globfree(&matches);
  if (code == GLOB_NOSPACE) throw std::bad_alloc();
  if (code != 0 || paths.empty()) {
    throw Error(ErrorKind::kData,
                fmt::format("\"{}\" matches no file (a relative path starts at the working folder)", pattern));
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

}  // namespace

void TokenSource::add_file(const std::string& path) {
  const auto& file = std::get<TokenFile>(storage_.emplace_back(std::in_place_type<TokenFile>, path));
  const auto same = std::find_if(segments_.begin(), segments_.end(),
                                 [&](const Segment& s) { return s.file && s.file->is_file_of(file.stamp()); });
  if (same != segments_.end()) {
    storage_.pop_back();
    throw Error(ErrorKind::kData,
                fmt::format("token file {} {}; a file may be read once", path,
                            same->name == path ? "is named a second time" : "is the same file as " + same->name));
  }
  segments_.push_back({.name = path, .first = total_, .tokens = file.tokens(), .file = file.stamp(), .content = {}});
  total_ += file.tokens();
}

void TokenSource::add_tokens(std::string name, std::vector<std::uint16_t> tokens) {
  const auto count = static_cast<std::int64_t>(tokens.size());
  storage_.emplace_back(std::move(tokens));
  segments_.push_back({.name = std::move(name), .first = total_, .tokens = count, .file = {}, .content = {}});
  segments_.back().content = scan(segments_.size() - 1, kMaxTokenId + 1);
  total_ += count;
}

void TokenSource::read(std::size_t segment, std::int64_t offset, std::span<std::uint16_t> out) const {
  if (const auto* file = std::get_if<TokenFile>(&storage_[segment])) return file->read(offset, out);
  const auto tokens = std::span(std::get<Memory>(storage_[segment]));
  QAT_CHECK(offset >= 0 && offset + std::ssize(out) <= std::ssize(tokens), "tokens are read from inside the segment");
  std::copy_n(tokens.begin() + offset, out.size(), out.begin());
}

void TokenSource::copy(std::int64_t offset, std::span<std::int32_t> out) const {
  QAT_CHECK(offset >= 0 && offset + std::ssize(out) <= total_, "tokens are copied from inside the source");
  if (out.empty()) return;
  auto segment = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                  [](std::int64_t at, const Segment& s) { return at < s.first; }) -
                 1;
  for (std::vector<std::uint16_t> part; !out.empty(); ++segment) {
    const std::int64_t begin = offset - segment->first;
    part.resize(static_cast<std::size_t>(std::min(segment->tokens - begin, std::ssize(out))));
    read(static_cast<std::size_t>(segment - segments_.begin()), begin, part);
    std::copy(part.begin(), part.end(), out.begin());
    out = out.subspan(part.size());
    offset += std::ssize(part);
  }
}

TokenContent TokenSource::scan(std::size_t segment, int vocab_size) const {
  if (const auto* file = std::get_if<TokenFile>(&storage_[segment])) return file->scan(vocab_size);
  const auto from_memory = [&](std::int64_t offset, std::span<std::uint16_t> out) { read(segment, offset, out); };
  return read_content(segments_[segment].tokens, from_memory, vocab_size, segments_[segment].name, /*first_byte=*/0);
}

void TokenSource::set_content(std::size_t segment, const TokenContent& content) {
  segments_[segment].content = content;
  if (auto* file = std::get_if<TokenFile>(&storage_[segment])) file->set_hash(content.hash);
}

std::vector<std::string> expand_patterns(const std::vector<std::string>& patterns) {
  std::vector<std::string> paths;
  for (const std::string& pattern : patterns) {
    struct stat status {};
    const bool exists = ::stat(pattern.c_str(), &status) == 0;
    for (std::string& path : exists ? std::vector<std::string>{pattern} : glob_files(pattern))
      paths.push_back(std::move(path));
  }
  return paths;
}

TokenSource open_tokens(const std::vector<std::string>& patterns, Split split, const std::string& named_by) {
  const std::string key = !named_by.empty() ? named_by : split == Split::kTrain ? "data.train" : "data.val";
  if (patterns.empty()) {
    throw Error(ErrorKind::kConfig, fmt::format("{} is empty: expected token shards, or [\"builtin\"]", key));
  }
  if (std::find(patterns.begin(), patterns.end(), kBuiltin) != patterns.end()) {
    if (patterns.size() > 1) {
      throw Error(ErrorKind::kConfig,
                  fmt::format("{} mixes \"builtin\" with {} other entries: the built-in text is bytes "
                              "and stands alone; expected exactly [\"builtin\"], or token shards",
                              key, patterns.size() - 1));
    }
    return builtin_text(split);
  }
  TokenSource source;
  try {
    for (const std::string& path : expand_patterns(patterns)) source.add_file(path);
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", key, error.what()));
  }
  return source;
}

}  // namespace qat

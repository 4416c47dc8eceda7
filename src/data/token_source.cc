#include "src/data/token_source.h"

#include <fmt/format.h>
#include <glob.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

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

void TokenSource::add_file(TokenFile file) {
  add_segment(file.path(), file.tokens(), kTokenFileHeaderBytes);
  files_.push_back(std::move(file));
}

void TokenSource::add_tokens(std::string name, std::vector<std::uint16_t> tokens) {
  memory_.push_back(std::move(tokens));
  add_segment(std::move(name), memory_.back(), 0);
}

void TokenSource::add_segment(std::string name, std::span<const std::uint16_t> tokens, std::int64_t first_byte) {
  segments_.push_back({std::move(name), total_, tokens, first_byte});
  total_ += static_cast<std::int64_t>(tokens.size());
}

void TokenSource::copy(std::int64_t offset, std::span<std::int32_t> out) const {
  QAT_CHECK(offset >= 0 && offset + static_cast<std::int64_t>(out.size()) <= total_,
            "tokens are copied from inside the source");
  if (out.empty()) return;
  auto segment = std::upper_bound(segments_.begin(), segments_.end(), offset,
                                  [](std::int64_t at, const Segment& s) { return at < s.first; }) -
                 1;
  while (true) {
    const auto from = segment->tokens.subspan(static_cast<std::size_t>(offset - segment->first));
    const std::size_t count = std::min(from.size(), out.size());
    std::copy_n(from.begin(), count, out.begin());
    out = out.subspan(count);
    if (out.empty()) return;
    offset += static_cast<std::int64_t>(count);
    ++segment;
  }
}

void TokenSource::check_vocabulary(int vocab_size) const {
  for (const Segment& segment : segments_) {
    qat::check_vocabulary(segment.tokens, vocab_size, segment.name, segment.first_byte);
  }
}

std::vector<std::string> expand_patterns(const std::vector<std::string>& patterns) {
  std::vector<std::string> paths;
  std::set<std::string> seen;
  for (const std::string& pattern : patterns) {
    struct stat status {};
    const bool exists = ::stat(pattern.c_str(), &status) == 0;
    for (const std::string& path : exists ? std::vector<std::string>{pattern} : glob_files(pattern)) {
      if (!seen.insert(path).second) {
        throw Error(ErrorKind::kData,
                    fmt::format("\"{}\" names {} a second time; a file may be read once", pattern, path));
      }
      paths.push_back(path);
    }
  }
  return paths;
}

TokenSource open_tokens(const std::vector<std::string>& patterns, Split split) {
  const char* key = split == Split::kTrain ? "data.train" : "data.val";
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
    for (const std::string& path : expand_patterns(patterns)) source.add_file(TokenFile::open(path));
  } catch (const Error& error) {
    throw Error(error.kind(), fmt::format("{}: {}", key, error.what()));
  }
  return source;
}

}  // namespace qat

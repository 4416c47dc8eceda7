// The tokens of a split, as segments: one for each shard file, or one in memory for the built-in text.
//
// A training window never crosses from one segment into the next (shards need not be neighbours in any text). copy()
// may: evaluation reads all segments as one long text.
//
// Reading may fail at any time, since files may change or be lost: kData, naming the file.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "src/data/token_file.h"

namespace qat {

enum class Split { kTrain, kVal };

class TokenSource {
 public:
  struct Segment {
    std::string name;                     // the file, for messages
    std::int64_t first = 0;               // global index of its first token
    std::int64_t tokens = 0;              // how many it has
    std::optional<FileStamp> file;        // text in memory has none
    std::optional<TokenContent> content;  // once all of it has been read
  };

  TokenSource() = default;
  // Opens a shard. kData if it is one that the source has already, under whatever name.
  void add_file(const std::string& path);
  void add_tokens(std::string name, std::vector<std::uint16_t> tokens);

  const std::vector<Segment>& segments() const { return segments_; }
  std::int64_t total_tokens() const { return total_; }

  // Tokens [offset, offset + out.size()) of one segment.
  void read(std::size_t segment, std::int64_t offset, std::span<std::uint16_t> out) const;
  // Tokens [offset, offset + out.size()) of all segments in a row.
  void copy(std::int64_t offset, std::span<std::int32_t> out) const;

  // Reads all of a segment once. Throws kData, naming the file and the byte, if an id is not below vocab_size.
  TokenContent scan(std::size_t segment, int vocab_size) const;
  // What scan() found here, or on another rank that has the same file open.
  void set_content(std::size_t segment, const TokenContent& content);

 private:
  using Memory = std::vector<std::uint16_t>;

  std::vector<Segment> segments_;
  std::deque<std::variant<TokenFile, Memory>> storage_;  // of each segment
  std::int64_t total_ = 0;
};

// What data.train or data.val names: shard files and globs (each sorted by name, kept in the order given), or exactly
// ["builtin"] (see builtin_text.h), of which `split` chooses the part. kConfig for a bad list, kData for bad files.
// named_by: what messages call the list; empty: data.train or data.val.
TokenSource open_tokens(const std::vector<std::string>& patterns, Split split, const std::string& named_by = {});

// The files that the patterns name, as open_tokens takes them: a pattern that names an existing file is that file, any
// other is a glob; one that matches nothing is a kData error.
std::vector<std::string> expand_patterns(const std::vector<std::string>& patterns);

}  // namespace qat

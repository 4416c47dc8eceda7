// The tokens of a split, as segments: one for each shard file, or one in memory for the built-in text.
//
// A training window never crosses from one segment into the next (shards need not be neighbours in any text). copy()
// may: evaluation reads all segments as one long text.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "src/data/token_file.h"

namespace qat {

enum class Split { kTrain, kVal };

class TokenSource {
 public:
  struct Segment {
    std::string name;        // the file, for messages
    std::int64_t first = 0;  // global index of its first token
    std::span<const std::uint16_t> tokens;
    std::int64_t first_byte;  // offset of tokens[0] in the file, for messages
  };

  TokenSource() = default;
  void add_file(TokenFile file);
  void add_tokens(std::string name, std::vector<std::uint16_t> tokens);

  const std::vector<Segment>& segments() const { return segments_; }
  std::int64_t total_tokens() const { return total_; }

  // Tokens [offset, offset + out.size()) of all segments in a row.
  void copy(std::int64_t offset, std::span<std::int32_t> out) const;

  // Throws kData, naming the file and the byte, if an id is not below vocab_size. Reads everything once.
  void check_vocabulary(int vocab_size) const;

 private:
  void add_segment(std::string name, std::span<const std::uint16_t> tokens, std::int64_t first_byte);

  std::vector<TokenFile> files_;                    // what the segments point into; moving either moves no token
  std::vector<std::vector<std::uint16_t>> memory_;  //
  std::vector<Segment> segments_;
  std::int64_t total_ = 0;
};

// What data.train or data.val names: shard files and globs (each sorted by name, kept in the order given), or exactly
// ["builtin"] (see builtin_text.h), of which `split` chooses the part. kConfig for a bad list, kData for bad files.
TokenSource open_tokens(const std::vector<std::string>& patterns, Split split);

// The files that the patterns name, as open_tokens takes them: a pattern that names an existing file is that file, any
// other is a glob; one that matches nothing, and a file named twice, are kData errors.
std::vector<std::string> expand_patterns(const std::vector<std::string>& patterns);

}  // namespace qat

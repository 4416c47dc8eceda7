// Token shards in llm.c's layout, little endian: a header of 256 int32 (magic 20240520, version 1, token count, zeros),
// then the tokens as uint16.
//
// Errors are kData and name the file, the byte offset, what was expected there and what was found.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/base/file.h"

namespace qat {

inline constexpr std::int32_t kTokenFileMagic = 20240520;
inline constexpr std::int32_t kTokenFileVersion = 1;
inline constexpr std::int64_t kTokenFileHeaderBytes = 1024;
inline constexpr std::int64_t kMaxTokensPerFile = 0x7FFFFFFF;  // the count is an int32
inline constexpr int kMaxTokenId = 0xFFFF;

// Throws kData if a token is not below `vocab_size`. `where` and `first_byte` (the offset of tokens[0]) are for the
// message. Reads every token once; as fast as memory.
void check_vocabulary(std::span<const std::uint16_t> tokens, int vocab_size, const std::string& where,
                      std::int64_t first_byte);

// A shard, mapped read-only: pages are read when they are used and shared by the ranks of a node. The file must not be
// cut short while it is open.
class TokenFile {
 public:
  // Checks size, magic, version and count; an empty shard is refused.
  static TokenFile open(const std::string& path);

  TokenFile(TokenFile&& other) noexcept;
  TokenFile& operator=(TokenFile&& other) noexcept;
  ~TokenFile();

  const std::string& path() const { return path_; }
  std::span<const std::uint16_t> tokens() const { return tokens_; }

 private:
  TokenFile(std::string path, void* map, std::int64_t bytes);

  std::string path_;
  void* map_ = nullptr;
  std::int64_t bytes_ = 0;
  std::span<const std::uint16_t> tokens_;
};

// Writes a shard under a temporary name beside `path`; complete() writes the header and syncs, publish() renames, so
// that a file called `path` is always whole. A writer that is destroyed unpublished leaves nothing behind.
class TokenFileWriter {
 public:
  explicit TokenFileWriter(std::string path);
  TokenFileWriter(const TokenFileWriter&) = delete;
  TokenFileWriter& operator=(const TokenFileWriter&) = delete;
  ~TokenFileWriter();

  // Ids must be 0..kMaxTokenId, and at most kMaxTokensPerFile in all.
  void append(std::span<const int> ids);
  // At least one token must have been written. Closes the file: a complete writer holds no descriptor.
  void complete();
  void publish();

  const std::string& path() const { return path_; }
  std::int64_t tokens() const { return tokens_; }

 private:
  void flush();
  void write_at(const void* data, std::int64_t bytes, std::int64_t offset);
  [[noreturn]] void fail(const std::string& doing) const;

  std::string path_;
  std::string temporary_;
  FileDescriptor fd_;  // closed once complete
  bool temporary_exists_ = false;
  std::int64_t tokens_ = 0;   // appended
  std::int64_t written_ = 0;  // of these, in the file
  std::vector<std::uint16_t> buffer_;
};

}  // namespace qat

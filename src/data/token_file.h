// Token shards in llm.c's layout, little endian: a header of 256 int32 (magic 20240520, version 1, token count, zeros),
// then the tokens as uint16.
//
// Errors are kData and name the file, the byte offset, what was expected there and what was found.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "src/base/file.h"
#include "src/data/token_content.h"

namespace qat {

inline constexpr std::int32_t kTokenFileMagic = 20240520;
inline constexpr std::int32_t kTokenFileVersion = 1;
inline constexpr std::int64_t kTokenFileHeaderBytes = 1024;
inline constexpr std::int64_t kMaxTokensPerFile = 0x7FFFFFFF;  // the count is an int32
inline constexpr int kMaxTokenId = 0xFFFF;

// Which file it is, and in which state: what the system says without reading it.
struct FileStamp {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::int64_t bytes = 0;
  std::int64_t changed_ns = 0;  // time of its last change (ctime: unlike that of the last write, nobody can set it)

  bool is_file_of(const FileStamp& other) const { return device == other.device && inode == other.inode; }
  friend bool operator==(const FileStamp&, const FileStamp&) = default;
};

// A shard, open for reading. Tokens are read when they are wanted, into the caller's memory, and not mapped: a file
// that is cut short, overwritten or lost while it is in use is then an error like any other. One that is replaced by
// another of its name is read to the end as it was. Const functions may be called from any thread.
class TokenFile {
 public:
  // Checks size, magic, version and count; an empty shard is refused.
  explicit TokenFile(std::string path);
  TokenFile(const TokenFile&) = delete;
  TokenFile& operator=(const TokenFile&) = delete;

  const std::string& path() const { return path_; }
  std::int64_t tokens() const { return tokens_; }
  const FileStamp& stamp() const { return stamp_; }  // when it was opened

  // Tokens [offset, offset + out.size()). Throws kData if the file cannot be read, or has changed and is not known to
  // hold the same tokens still.
  void read(std::int64_t offset, std::span<std::uint16_t> out) const;

  // Reads everything once: see read_content().
  TokenContent scan(int vocab_size) const;

  // The hash of what the file holds. With it a file that has merely been touched or renamed, or written with the same
  // tokens, is recognised, at the cost of reading it once.
  void set_hash(std::uint64_t hash) { hash_ = hash; }

 private:
  void read_bytes(void* to, std::int64_t bytes, std::int64_t offset) const;
  void check_unchanged() const;
  TokenContent scan_bytes(int vocab_size) const;
  FileStamp stamp_now() const;
  [[noreturn]] void fail_size(std::int64_t bytes) const;
  [[noreturn]] void fail_changed(const std::string& how) const;

  std::string path_;
  FileDescriptor fd_;
  FileStamp stamp_;
  std::int64_t tokens_ = 0;
  std::optional<std::uint64_t> hash_;
  mutable std::mutex recheck_;                     // one thread reads a changed file again, the others wait
  mutable std::atomic<std::int64_t> known_ns_{0};  // up to this change the content is known
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

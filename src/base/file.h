// Files written so that a crash leaves the old or the new content, and errors that say what is wrong with which path.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "kernels/common/error.h"

namespace qat {

// The whole content. Throws Error(kind) naming the path and the system's reason.
std::string read_file(const std::filesystem::path& path, ErrorKind kind = ErrorKind::kData);

// Replaces the file's content, or makes the file: written beside it, synced, renamed over it, folder synced. Readers
// and crashes see the old content or the new, never a part. New files get the permissions that the umask leaves; an
// existing file keeps its own.
void write_file_atomic(const std::filesystem::path& path, std::string_view bytes, ErrorKind kind = ErrorKind::kConfig);

// The same for content that is replaced often and may be lost with the machine: readers see the old or the new, but
// nothing is synced. Returns false, with errno set, if it could not be written.
bool replace_file(const std::filesystem::path& path, std::string_view bytes) noexcept;

// Makes the folder and those above it, and makes sure that files can be made in it. `key` is the configuration key that
// names it, for the message, e.g. "run.dir".
void create_directories_checked(const std::filesystem::path& dir, std::string_view key);

// A file descriptor, closed at the end of its life.
class FileDescriptor {
 public:
  explicit FileDescriptor(int fd = -1) noexcept : fd_(fd) {}
  FileDescriptor(FileDescriptor&& other) noexcept;
  FileDescriptor& operator=(FileDescriptor&& other) noexcept;
  ~FileDescriptor();

  int get() const noexcept { return fd_; }
  bool valid() const noexcept { return fd_ >= 0; }
  // Closes now; false, with errno set, if the system reports an error of an earlier write only here.
  bool close() noexcept;

 private:
  int fd_ = -1;
};

// Writes all bytes, through interruptions and partial writes; false, with errno set, on an error.
bool write_all(int fd, std::string_view bytes) noexcept;

// The same to a pipe or terminal that may be full for ever: gives up after `seconds`, at the latest.
void write_within(int fd, std::string_view bytes, double seconds) noexcept;

// A file that only grows, one line at a time. A line is one write to the kernel: it survives the death of the process.
class AppendFile {
 public:
  // Opens for appending, makes the file if need be. Throws Error(kConfig).
  explicit AppendFile(std::filesystem::path path);

  // `line` without its line end. Returns false, with errno set, if it could not be written.
  bool try_append(std::string_view line) noexcept;
  // The same; throws Error(kConfig).
  void append(std::string_view line);

  const std::filesystem::path& path() const noexcept { return path_; }

 private:
  std::filesystem::path path_;
  FileDescriptor fd_;
};

}  // namespace qat

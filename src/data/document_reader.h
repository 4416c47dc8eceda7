// A text document read in blocks, never whole.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "src/base/file.h"

namespace qat {

// One document, read once from its start to its end.
class DocumentReader {
 public:
  // A path, or "-" for standard input. kData errors name it.
  explicit DocumentReader(std::string path);

  // Makes size() known: a document that is no regular file is copied to an unnamed file in the folder of `beside`.
  void make_sized(const std::string& beside);
  std::int64_t size() const;

  // Offset from which the last `fraction` of the bytes is held out: the first place from there on where the two parts
  // may be tokenized apart (is_certain_boundary), or, if there is none in 64 KiB, the first character. make_sized
  // first.
  std::int64_t held_out_begin(double fraction) const;

  // Reads on to the offset `end` (to the end of the document if negative) and hands the text to `block` in pieces that
  // may be tokenized apart.
  void read_to(std::int64_t end, const std::function<void(std::string_view)>& block);

  // Bytes read so far.
  std::int64_t position() const { return position_; }

  static constexpr std::size_t kBlockBytes = std::size_t{4} << 20;

 private:
  std::size_t read_some(char* to, std::size_t bytes);  // 0 at the end
  [[noreturn]] void fail(const std::string& doing) const;

  std::string name_;
  FileDescriptor fd_;
  std::int64_t start_ = 0;  // offset of the document in fd_: standard input may have been read from before
  std::int64_t size_ = -1;  // unknown
  std::int64_t position_ = 0;
};

}  // namespace qat

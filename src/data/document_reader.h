// A text document read in blocks, never whole.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include "src/base/file.h"

namespace qat {

// One document, read once from its start to its end.
class DocumentReader {
 public:
  // A path, or "-" for standard input. `bytes`: how much of it to read, for a regular file whose size is known from
  // before; what has been added since is left out. kData errors name the document.
  explicit DocumentReader(std::string path, std::int64_t bytes = kUnknown);

  // A regular file, whose size is known (one that says 0 and has content, as those of /proc do, is none). Anything else
  // can be read once, and ends when it ends.
  bool is_sized() const { return size_ != kUnknown; }
  // Hands on what is read from here on, as it comes, by read_to or make_sized; an empty view at the end of the
  // document.
  void observe(std::function<void(std::string_view)> observer) { observer_ = std::move(observer); }

  // Makes is_sized() true: copies the document, if it must be, to an unnamed file in the folder of `beside`.
  void make_sized(const std::string& beside);
  std::int64_t size() const;

  // Hands all of a sized document over, in blocks that end anywhere. Reading it afterwards starts at its beginning.
  void scan(const std::function<void(std::string_view)>& block) const;

  // Offset from which the last `fraction` of the bytes of a sized document is held out: the first place from there on
  // where `separator` stands; else, where the two parts may be tokenized apart (is_certain_boundary); else, where a
  // character begins. The first two are looked for in 64 KiB, or half of what is to be held out if that is less. An
  // empty separator is not looked for.
  std::int64_t held_out_begin(double fraction, std::string_view separator) const;

  // Reads on to the offset `end` (to the end of the document if negative) and hands the text to `block` in pieces that
  // may be tokenized apart.
  void read_to(std::int64_t end, const std::function<void(std::string_view)>& block);

  // Bytes read so far.
  std::int64_t position() const { return position_; }

  static constexpr std::size_t kBlockBytes = std::size_t{4} << 20;
  static constexpr std::int64_t kUnknown = -1;

 private:
  static constexpr std::int64_t kSearchedBytes = std::int64_t{64} << 10;

  std::size_t read_some(char* to, std::size_t bytes);  // 0 at the end
  // All of [offset, offset + bytes) of a sized document, whatever has been read of it.
  void read_at(std::int64_t offset, char* to, std::size_t bytes) const;
  [[noreturn]] void fail(const std::string& doing) const;
  [[noreturn]] void fail_shorter() const;

  std::string name_;
  FileDescriptor fd_;
  std::int64_t start_ = 0;  // offset of the document in fd_: standard input may have been read from before
  std::int64_t size_ = kUnknown;
  std::int64_t position_ = 0;
  std::function<void(std::string_view)> observer_;
};

}  // namespace qat

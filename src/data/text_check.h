// Is a document text? Text is UTF-8 here; tokens of anything else (an archive, UTF-16, Latin-1) train a model on noise.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace qat {

// Why a document is no text.
struct NotText {
  std::string what;    // "looks like gzip data"
  std::string filter;  // a command that makes text of it as it passes through ("zcat"); empty: there is none
  std::string advice;  // what to do where no filter helps
};

// Is fed the bytes of one document in order. No text is
//   - what starts like a known kind of file that is none (archives, PDF, images, token shards, ...);
//   - UTF-16 and UTF-32: by their byte order mark, or because every second, or three of four, of the bytes are zero;
//   - more than 1 % of bytes that are not UTF-8; NULs, if there are 16 or more and they are more than 30 %.
// Other NULs are text (lists that are separated by them), and so is a byte order mark of UTF-8.
class TextCheck {
 public:
  void feed(std::string_view bytes);

  // What the first bytes alone say: for documents that come through a pipe and may be long.
  std::optional<NotText> starts_as() const;
  // What the whole document says.
  std::optional<NotText> verdict() const;

 private:
  void count(std::string_view bytes);

  std::string head_;               // the first kHeadBytes
  std::string carry_;              // the end of what was fed, if it may be the beginning of a character
  std::int64_t bytes_ = 0;         // fed
  std::int64_t nuls_ = 0;          //
  std::int64_t counted_ = 0;       // fed, without carry_
  std::int64_t broken_ = 0;        // bytes that are not UTF-8, among those
  std::int64_t first_broken_ = 0;  // the offset of the first of them
};

}  // namespace qat

#include "src/data/text_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "src/text/utf8.h"

namespace qat {
namespace {

constexpr std::size_t kHeadBytes = std::size_t{64} << 10;

// A kind of file that is known by its first bytes.
struct Kind {
  std::size_t offset;
  std::string_view magic;
  const char* looks_like;
  const char* filter;
  const char* advice;
};

constexpr const char* kUnpack = "unpack it and tokenize the text files in it";
constexpr const char* kExport = "save or export it as plain text";
constexpr const char* kLeaveOut = "leave it out of the inputs";

// A magic number that holds NULs is written with its length.
constexpr std::array kKinds = {
    Kind{0, "\x1F\x8B", "gzip data", "zcat", ""},
    Kind{0,
         "\xFD"
         "7zXZ",
         "xz data", "xzcat", ""},
    Kind{0, "\x28\xB5\x2F\xFD", "zstd data", "zstdcat", ""},
    Kind{0, "\x04\x22\x4D\x18", "lz4 data", "lz4cat", ""},
    Kind{4, "1AY&SY", "bzip2 data", "bzcat", ""},
    Kind{4, "\x17\x72\x45\x38\x50\x90", "bzip2 data", "bzcat", ""},  // of nothing
    Kind{0, "PK\x03\x04", "a zip archive, or a .docx, .odt, .xlsx or .epub document", "",
         "unpack it (unzip), or save the document as plain text"},
    Kind{0, "PK\x05\x06", "an empty zip archive", "", kLeaveOut},
    Kind{0, "7z\xBC\xAF\x27\x1C", "a 7z archive", "", kUnpack},
    Kind{0, "Rar!\x1A\x07", "a RAR archive", "", kUnpack},
    Kind{257, "ustar", "a tar archive", "", kUnpack},
    Kind{0, "%PDF-", "a PDF document", "", "make text of it first (pdftotext)"},
    Kind{0, "\xD0\xCF\x11\xE0\xA1\xB1\x1A\xE1", "an old Office document (.doc, .xls, .ppt)", "", kExport},
    Kind{0, "PAR1\x15", "a Parquet file", "", kExport},
    Kind{0, std::string_view("ARROW1\0\0", 8), "an Arrow file", "", kExport},
    Kind{0, std::string_view("SQLite format 3\0", 16), "an SQLite database", "", kExport},
    Kind{0, "\x89HDF\r\n\x1A\n", "an HDF5 file", "", kExport},
    Kind{0, "\x93NUMPY", "a NumPy array", "", kExport},
    Kind{0, std::string_view("\x88\xD8\x34\x01\x01\0\0\0", 8), "a token shard", "",
         "it is tokenized already: name it in data.train or data.val"},
    Kind{0, "\x89PNG\r\n\x1A\n", "a PNG image", "", kLeaveOut},
    Kind{0, "\xFF\xD8\xFF", "a JPEG image", "", kLeaveOut},
    Kind{0, "GIF89a", "a GIF image", "", kLeaveOut},
    Kind{0,
         "\x7F"
         "ELF",
         "a program or library (ELF)", "", kLeaveOut},
    // UTF-32 first: its little-endian mark begins with that of UTF-16.
    Kind{0, std::string_view("\xFF\xFE\0\0", 4), "UTF-32 text", "iconv -f UTF-32 -t UTF-8", ""},
    Kind{0, std::string_view("\0\0\xFE\xFF", 4), "UTF-32 text", "iconv -f UTF-32 -t UTF-8", ""},
    Kind{0, "\xFF\xFE", "UTF-16 text", "iconv -f UTF-16 -t UTF-8", ""},
    Kind{0, "\xFE\xFF", "UTF-16 text", "iconv -f UTF-16 -t UTF-8", ""},
};

NotText wide_text(const std::string& encoding) {
  return {fmt::format("looks like {} text", encoding), fmt::format("iconv -f {} -t UTF-8", encoding), ""};
}

// UTF-16 or UTF-32 without a mark: characters below U+0100 leave their upper bytes zero, all at places of one parity.
std::optional<NotText> wide_characters(std::string_view head) {
  constexpr std::size_t kFewest = 8;  // zeros: two lists in 128 that NULs separate have eight at one parity
  std::array<std::size_t, 4> zeros{};
  for (std::size_t i = 0; i < head.size(); ++i) zeros[i % 4] += head[i] == '\0' ? 1 : 0;
  const std::size_t all = zeros[0] + zeros[1] + zeros[2] + zeros[3];
  if (all < kFewest || all * 50 < head.size()) return std::nullopt;
  const auto nearly_all = [&](std::size_t place) { return zeros[place] * 40 >= head.size() * 9; };  // 90 % of a quarter
  if (nearly_all(2) && nearly_all(3) && !nearly_all(0)) return wide_text("UTF-32LE");
  if (nearly_all(0) && nearly_all(1) && !nearly_all(3)) return wide_text("UTF-32BE");
  const std::size_t even = zeros[0] + zeros[2], odd = zeros[1] + zeros[3];
  if (even * 100 <= all) return wide_text("UTF-16LE");
  if (odd * 100 <= all) return wide_text("UTF-16BE");
  return std::nullopt;
}

}  // namespace

void TextCheck::feed(std::string_view bytes) {
  if (head_.size() < kHeadBytes) head_.append(bytes.substr(0, kHeadBytes - head_.size()));
  bytes_ += static_cast<std::int64_t>(bytes.size());
  nuls_ += std::count(bytes.begin(), bytes.end(), '\0');
  if (carry_.empty()) return count(bytes);
  std::string joined = std::move(carry_);
  carry_.clear();
  joined.append(bytes);
  count(joined);
}

void TextCheck::count(std::string_view bytes) {
  constexpr std::size_t kLongestCharacter = 4;
  std::size_t at = 0;
  while ((at = utf8_run_end(bytes, at)) < bytes.size()) {
    if (bytes.size() - at < kLongestCharacter) break;  // the next bytes may complete it
    if (broken_ == 0) first_broken_ = counted_ + static_cast<std::int64_t>(at);
    ++broken_;
    ++at;
  }
  carry_ = bytes.substr(at);
  counted_ += static_cast<std::int64_t>(at);
}

std::optional<NotText> TextCheck::starts_as() const {
  const std::string_view head = head_;
  for (const Kind& kind : kKinds) {
    if (head.size() > kind.offset && head.substr(kind.offset).starts_with(kind.magic)) {
      return NotText{fmt::format("looks like {}", kind.looks_like), kind.filter, kind.advice};
    }
  }
  return wide_characters(head);
}

std::optional<NotText> TextCheck::verdict() const {
  if (std::optional<NotText> found = starts_as()) return found;
  std::int64_t broken = broken_, first = first_broken_;
  for (std::size_t at = 0; (at = utf8_run_end(carry_, at)) < carry_.size(); ++at) {  // nothing comes to complete it
    if (broken == 0) first = counted_ + static_cast<std::int64_t>(at);
    ++broken;
  }
  const auto percent = [&](std::int64_t part) { return 100 * static_cast<double>(part) / static_cast<double>(bytes_); };
  if (broken * 100 > bytes_) {
    return NotText{fmt::format("has {} bytes of {} that are not UTF-8 ({:.1f} %, the first at byte {}); if it is text "
                               "in an older encoding",
                               broken, bytes_, percent(broken), first),
                   "iconv -f WINDOWS-1252 -t UTF-8", ""};
  }
  if (nuls_ >= 16 && nuls_ * 10 > bytes_ * 3) {
    return NotText{fmt::format("looks like binary data ({:.1f} % of its bytes are zero)", percent(nuls_)), "",
                   kLeaveOut};
  }
  return std::nullopt;
}

}  // namespace qat

#include "src/data/csv.h"

#include <fmt/format.h>

#include <utility>

#include "kernels/common/error.h"

namespace qat {
namespace {

class CsvReader {
 public:
  CsvReader(std::string_view text, const std::string& source) : text_(text), source_(source) {}

  std::vector<CsvRow> rows() {
    std::vector<CsvRow> rows;
    while (at_ < text_.size()) {
      CsvRow row = read_row();
      if (row.fields.size() > 1 || !row.fields.front().empty()) rows.push_back(std::move(row));
    }
    return rows;
  }

 private:
  bool at_line_end() const { return at_ >= text_.size() || text_[at_] == '\n' || text_.substr(at_, 2) == "\r\n"; }

  CsvRow read_row() {
    CsvRow row{.line = line_, .fields = {}};
    while (true) {
      row.fields.push_back(at_ < text_.size() && text_[at_] == '"' ? quoted() : plain());
      if (at_ < text_.size() && text_[at_] == ',') {
        ++at_;
        continue;
      }
      if (!at_line_end()) fail(line_, "expected a comma or the line's end behind a quoted field");
      if (at_ < text_.size()) at_ += text_[at_] == '\r' ? 2 : 1, ++line_;
      return row;
    }
  }

  std::string plain() {
    const std::size_t begin = at_;
    while (!at_line_end() && text_[at_] != ',') {
      if (text_[at_] == '"') fail(line_, "a quote stands inside a field that does not begin with one");
      ++at_;
    }
    return std::string(text_.substr(begin, at_ - begin));
  }

  std::string quoted() {
    const int begin = line_;
    std::string field;
    for (++at_; at_ < text_.size(); ++at_) {
      if (text_[at_] == '"') {
        ++at_;
        if (at_ >= text_.size() || text_[at_] != '"') return field;
      } else if (text_[at_] == '\n') {
        ++line_;
      }
      field += text_[at_];
    }
    fail(begin, "a quote begins here and does not end");
  }

  [[noreturn]] void fail(int line, const std::string& what) const {
    throw Error(ErrorKind::kData, fmt::format("{}:{}: {} (RFC 4180)", source_, line, what));
  }

  std::string_view text_;
  const std::string& source_;
  std::size_t at_ = 0;
  int line_ = 1;
};

}  // namespace

std::vector<CsvRow> parse_csv(std::string_view text, const std::string& source) {
  return CsvReader(text, source).rows();
}

}  // namespace qat

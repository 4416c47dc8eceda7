// A table of texts: columns come from the data, what is missing shows as "-".
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace qat {

class Table {
 public:
  struct Cell {
    std::string column;  // its heading
    std::string text;    // empty: missing
  };

  Table() = default;
  // Fixes the first columns and their order, for tables that may be without rows or whose first rows have gaps.
  explicit Table(std::vector<std::string> columns) : columns_(std::move(columns)) {}

  // Cells of columns that no row had before open new ones, at the right.
  void add_row(const std::vector<Cell>& cells);

  std::size_t columns() const noexcept { return columns_.size(); }
  std::size_t rows() const noexcept { return rows_.size(); }

  // Each ends with a line end. Columns whose texts are all numbers are flush right.
  std::string ascii() const;     // frame of + - |
  std::string markdown() const;  // a GitHub table
  std::string latex() const;     // a tabular with \hline
  std::string html() const;      // a table; numbers have the class "number"
  std::string csv() const;       // RFC 4180, but '\n'; missing: an empty field, which readers take for missing

 private:
  bool is_numeric(std::size_t column) const;
  std::vector<std::vector<std::string>> texts(std::string (*escape)(std::string_view)) const;
  std::vector<std::size_t> widths(const std::vector<std::vector<std::string>>& texts) const;

  std::vector<std::string> columns_;
  std::vector<std::vector<std::string>> rows_;  // may be shorter than columns_
};

}  // namespace qat

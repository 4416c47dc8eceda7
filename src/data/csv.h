// Comma-separated values as RFC 4180 has them: fields may stand in quotes, and hold commas, line ends and doubled
// quotes there.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qat {

struct CsvRow {
  int line = 0;  // where it begins, from 1
  std::vector<std::string> fields;
};

// The rows of a text that are not empty. Throws kData, naming `source` and the line, for a quote that does not end or
// stands inside a field without quotes around it.
std::vector<CsvRow> parse_csv(std::string_view text, const std::string& source);

}  // namespace qat

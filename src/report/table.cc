#include "src/report/table.h"

#include <algorithm>
#include <cctype>

#include "src/report/html_page.h"

namespace qat {
namespace {

constexpr std::string_view kMissing = "-";

std::string one_line(std::string_view text) {
  std::string line(text);
  std::replace(line.begin(), line.end(), '\n', ' ');
  return line;
}

std::string markdown_text(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '|' || c == '\\') escaped.push_back('\\');
    escaped.push_back(c == '\n' ? ' ' : c);
  }
  return escaped;
}

std::string latex_text(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    switch (c) {
      case '\\':
        escaped += "\\textbackslash{}";
        break;
      case '~':
        escaped += "\\textasciitilde{}";
        break;
      case '^':
        escaped += "\\textasciicircum{}";
        break;
      case '\n':
        escaped += ' ';
        break;
      default:
        if (std::string_view("&%$#_{}").find(c) != std::string_view::npos) escaped.push_back('\\');
        escaped.push_back(c);
    }
  }
  return escaped;
}

std::string csv_text(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"') quoted.push_back('"');
    quoted.push_back(c);
  }
  return quoted + "\"";
}

// Characters, not bytes: those that continue a UTF-8 sequence take no room.
std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string padded(const std::string& text, std::size_t width, bool right) {
  const std::string blanks(width - std::min(width, display_width(text)), ' ');
  return right ? blanks + text : text + blanks;
}

void add_cell(std::string& line, const std::string& text) { line.append(" ").append(text).append(" |"); }

// What begins like a number, whatever its unit: 1.5, -3, 12 %, 1.50 MiB.
bool looks_numeric(std::string_view text) {
  if (text.empty() || text == kMissing) return true;
  const std::size_t digit = text[0] == '-' || text[0] == '+' ? 1 : 0;
  return digit < text.size() && std::isdigit(static_cast<unsigned char>(text[digit])) != 0;
}

}  // namespace

void Table::add_row(const std::vector<Cell>& cells) {
  std::vector<std::string> row(columns_.size());
  for (const Cell& cell : cells) {
    const auto found = std::find(columns_.begin(), columns_.end(), cell.column);
    const auto index = static_cast<std::size_t>(found - columns_.begin());
    if (found == columns_.end()) {
      columns_.push_back(cell.column);
      row.emplace_back();
    }
    row[index] = cell.text;
  }
  rows_.push_back(std::move(row));
}

bool Table::is_numeric(std::size_t column) const {
  bool any = false;
  for (const std::vector<std::string>& row : rows_) {
    if (column >= row.size()) continue;
    if (!looks_numeric(row[column])) return false;
    any = any || !row[column].empty();
  }
  return any;
}

std::vector<std::vector<std::string>> Table::texts(std::string (*escape)(std::string_view)) const {
  std::vector<std::vector<std::string>> lines;
  lines.emplace_back();
  for (const std::string& column : columns_) lines.back().push_back(escape(column));
  for (const std::vector<std::string>& row : rows_) {
    lines.emplace_back();
    for (std::size_t c = 0; c < columns_.size(); ++c)
      lines.back().push_back(c < row.size() && !row[c].empty() ? escape(row[c]) : std::string(kMissing));
  }
  return lines;
}

std::vector<std::size_t> Table::widths(const std::vector<std::vector<std::string>>& texts) const {
  std::vector<std::size_t> result(columns_.size(), 3);  // Markdown's rule needs three
  for (const std::vector<std::string>& line : texts) {
    for (std::size_t c = 0; c < line.size(); ++c) result[c] = std::max(result[c], display_width(line[c]));
  }
  return result;
}

std::string Table::ascii() const {
  const std::vector<std::vector<std::string>> lines = texts(one_line);
  const std::vector<std::size_t> width = widths(lines);
  std::string rule = "+";
  for (const std::size_t w : width) rule.append(w + 2, '-').push_back('+');
  rule.push_back('\n');
  std::string text = rule;
  for (std::size_t l = 0; l < lines.size(); ++l) {
    text += "|";
    for (std::size_t c = 0; c < width.size(); ++c) add_cell(text, padded(lines[l][c], width[c], is_numeric(c)));
    text += "\n";
    if (l == 0) text += rule;
  }
  return text + (lines.size() > 1 ? rule : "");
}

std::string Table::markdown() const {
  const std::vector<std::vector<std::string>> lines = texts(markdown_text);
  const std::vector<std::size_t> width = widths(lines);
  std::string text;
  for (std::size_t l = 0; l < lines.size(); ++l) {
    text += "|";
    for (std::size_t c = 0; c < width.size(); ++c) add_cell(text, padded(lines[l][c], width[c], is_numeric(c)));
    text += "\n";
    if (l > 0) continue;
    text += "|";
    for (std::size_t c = 0; c < width.size(); ++c)
      add_cell(text, std::string(width[c] - 1, '-') + (is_numeric(c) ? ':' : '-'));
    text += "\n";
  }
  return text;
}

std::string Table::latex() const {
  const std::vector<std::vector<std::string>> lines = texts(latex_text);
  std::string text = "\\begin{tabular}{";
  for (std::size_t c = 0; c < columns_.size(); ++c) text += is_numeric(c) ? 'r' : 'l';
  text += "}\n\\hline\n";
  for (std::size_t l = 0; l < lines.size(); ++l) {
    for (std::size_t c = 0; c < columns_.size(); ++c) text.append(c > 0 ? " & " : "").append(lines[l][c]);
    text += " \\\\\n";
    if (l == 0) text += "\\hline\n";
  }
  return text + "\\hline\n\\end{tabular}\n";
}

std::string Table::html() const {
  const std::vector<std::vector<std::string>> lines = texts(html_text);
  std::string text = "<table>\n";
  for (std::size_t l = 0; l < lines.size(); ++l) {
    text += "<tr>";
    const std::string cell = l == 0 ? "th" : "td";
    for (std::size_t c = 0; c < lines[l].size(); ++c)
      text.append("<")
          .append(cell)
          .append(is_numeric(c) ? " class=\"number\">" : ">")
          .append(lines[l][c])
          .append("</")
          .append(cell)
          .append(">");
    text += "</tr>\n";
  }
  return text + "</table>\n";
}

std::string Table::csv() const {
  std::string text;
  const auto add_line = [&](const std::vector<std::string>& cells) {
    for (std::size_t c = 0; c < columns_.size(); ++c)
      text.append(c > 0 ? "," : "").append(c < cells.size() ? csv_text(cells[c]) : "");
    text += "\n";
  };
  add_line(columns_);
  for (const std::vector<std::string>& row : rows_) add_line(row);
  return text;
}

}  // namespace qat

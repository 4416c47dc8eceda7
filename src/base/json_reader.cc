// parse_json: nlohmann's lexer and parser, fed through an iterator that counts lines, building Values.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstddef>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "src/base/json.h"

namespace qat {
namespace {

using nlohmann::json;

// How far the lexer has read.
struct Progress {
  const char* at = nullptr;
  int line = 1;
};

// Hands out characters and keeps the progress outside, because the parser copies its iterators.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, Progress* progress) : at_(at), progress_(progress) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    if (*at_ == '\n') ++progress_->line;
    progress_->at = ++at_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator before = *this;
    ++*this;
    return before;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) { return a.at_ == b.at_; }
  friend bool operator!=(const CountingIterator& a, const CountingIterator& b) { return a.at_ != b.at_; }

 private:
  const char* at_;
  Progress* progress_;
};

bool is_number_char(char c) {
  return (c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.' || c == 'e' || c == 'E';
}

// "line:column" of text[offset], both from 1, columns in characters.
std::string line_and_column(std::string_view text, std::size_t offset) {
  const std::string_view before = text.substr(0, offset);
  const std::size_t newline = before.rfind('\n');
  const std::string_view row = newline == std::string_view::npos ? before : before.substr(newline + 1);
  const auto continuation = [](char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; };
  return fmt::format("{}:{}", 1 + std::count(before.begin(), before.end(), '\n'),
                     1 + static_cast<std::ptrdiff_t>(row.size()) - std::count_if(row.begin(), row.end(), continuation));
}

// The parser's words without its own prefix, in valid UTF-8 and of bounded length: they quote the text, which may be
// anything.
std::string cleaned(std::string words) {
  const std::size_t start = words.find("syntax error");
  const std::size_t prefix = words.find("] ");
  if (start != std::string::npos) {
    words = words.substr(start);
  } else if (prefix != std::string::npos) {
    words = words.substr(prefix + 2);
  }
  constexpr std::size_t kLongest = 240;
  if (words.size() > kLongest) words = words.substr(0, kLongest) + "...";
  for (char& c : words) {
    if (static_cast<unsigned char>(c) >= 0x80 || static_cast<unsigned char>(c) < 0x20) c = '?';
  }
  return words;
}

class Builder : public nlohmann::json_sax<json> {
 public:
  Builder(std::string_view text, std::shared_ptr<const JsonSource> source, const Progress& progress)
      : text_(text), source_(std::move(source)), progress_(progress) {}

  bool null() override { return add(Value(), progress_.line); }
  bool boolean(bool value) override { return add(Value(value), progress_.line); }
  bool number_integer(number_integer_t value) override { return add(Value(value), number().line); }
  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<number_unsigned_t>(std::numeric_limits<std::int64_t>::max()))
      return add(Value(static_cast<double>(value)), number().line);
    return add(Value(value), number().line);
  }
  bool number_float(number_float_t, const string_t&) override {
    // Converted again from the text: the parser's own conversion asks the C locale for the decimal point.
    const Token token = number();
    double value = 0;
    const auto [end, error] = std::from_chars(token.text.data(), token.text.data() + token.text.size(), value);
    QAT_CHECK(error != std::errc::invalid_argument, "a JSON number that from_chars does not read");
    if (error == std::errc::result_out_of_range) value = 0.0;  // overflow is a syntax error, so this is underflow
    return add(Value(value), token.line);
  }
  bool string(string_t& value) override { return add(Value(std::move(value)), progress_.line); }
  bool binary(binary_t&) override { return false; }  // only binary formats have it

  bool start_object(std::size_t) override { return open(/*is_object=*/true); }
  bool start_array(std::size_t) override { return open(/*is_object=*/false); }
  bool key(string_t& key) override {
    Open& object = open_.back();
    object.dropped = !object.keys.insert(key).second;
    if (object.dropped)
      duplicates_.push_back(fmt::format("{}:{}: the key {} appears twice in one object", source_->name, progress_.line,
                                        to_json(Value(key))));
    object.key = std::move(key);
    object.key_line = progress_.line;
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool parse_error(std::size_t characters_read, const std::string& last_token, const json::exception& error) override {
    const std::string words = cleaned(error.what());
    std::size_t offset = std::min(characters_read, text_.size());
    if (words.find("unexpected end of input") != std::string::npos) {
      offset = text_.size();
    } else if (words.find("unexpected ") != std::string::npos && words.find("unexpected '") == std::string::npos) {
      offset -= std::min(offset, last_token.size());  // where the unexpected string, number or word starts
    } else {
      offset -= std::min<std::size_t>(offset, 1);  // the character that was refused
    }
    return stop(offset, words);
  }

  const std::string& error() const { return error_; }
  const std::vector<std::string>& duplicates() const { return duplicates_; }
  Value take() { return std::move(root_); }

 private:
  struct Token {
    std::string_view text;
    int line;
  };
  struct Open {  // an array or object whose end has not been read yet
    bool is_object = false;
    int line = 0;
    Value::Array items;
    Value::Object members;
    std::set<std::string> keys;
    std::string key;
    int key_line = 0;
    bool dropped = false;  // the current key repeats an earlier one
  };

  // The number that the lexer has just read; to find its end, it has read one character more, unless the text ended.
  Token number() const {
    const char* end = progress_.at;
    const bool looked_ahead = !is_number_char(end[-1]);
    if (looked_ahead) --end;
    const char* begin = end;
    while (begin != text_.data() && is_number_char(begin[-1])) --begin;
    return {std::string_view(begin, static_cast<std::size_t>(end - begin)),
            progress_.line - (looked_ahead && *end == '\n' ? 1 : 0)};
  }

  bool add(Value value, int line) {
    value.set_place(source_, line);
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (Open& parent = open_.back(); !parent.is_object) {
      parent.items.push_back(std::move(value));
    } else if (!parent.dropped) {
      parent.members.push_back({std::move(parent.key), std::move(value), parent.key_line});
    }
    return true;
  }

  bool open(bool is_object) {
    if (open_.size() == kMaxJsonDepth)
      return stop(static_cast<std::size_t>(progress_.at - text_.data()) - 1,
                  fmt::format("more than {} nested arrays and objects", kMaxJsonDepth));
    Open& opened = open_.emplace_back();
    opened.is_object = is_object;
    opened.line = progress_.line;
    return true;
  }

  bool close() {
    Open done = std::move(open_.back());
    open_.pop_back();
    return add(done.is_object ? Value::object(std::move(done.members)) : Value::array(std::move(done.items)),
               done.line);
  }

  bool stop(std::size_t offset, const std::string& words) {
    error_ = fmt::format("{}:{}: {}", source_->name, line_and_column(text_, offset), words);
    return false;
  }

  std::string_view text_;
  std::shared_ptr<const JsonSource> source_;
  const Progress& progress_;
  std::vector<Open> open_;
  Value root_;
  std::string error_;
  std::vector<std::string> duplicates_;
};

// What a text is that has no JSON in it, where the parser's words would not say so; empty: nothing is seen.
std::string obstacle(std::string_view text) {
  using std::string_view_literals::operator""sv;
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos) return "is empty; expected a JSON text";
  const bool marked = text.starts_with("\xFF\xFE"sv) || text.starts_with("\xFE\xFF"sv);
  if (marked || text.substr(0, 2).find('\0') != std::string_view::npos)
    return "looks like UTF-16; expected UTF-8: save it anew, or `iconv -f UTF-16 -t UTF-8`";
  return "";
}

}  // namespace

Value parse_json(std::string_view text, const std::string& source_name, ErrorKind kind,
                 std::vector<std::string>* duplicates) {
  if (const std::string what = obstacle(text); !what.empty())
    throw Error(kind, fmt::format("{} {}", source_name, what));
  const char* const begin = text.data();  // NOLINT(bugprone-suspicious-stringview-data-usage): its end goes along
  Progress progress{.at = begin};
  Builder builder(text, std::make_shared<JsonSource>(JsonSource{source_name, kind}), progress);
  const bool read =
      json::sax_parse(CountingIterator(begin, &progress), CountingIterator(begin + text.size(), &progress), &builder,
                      json::input_format_t::json, /*strict=*/true, /*ignore_comments=*/true);
  if (!read) throw Error(kind, builder.error());
  if (duplicates != nullptr) {
    duplicates->insert(duplicates->end(), builder.duplicates().begin(), builder.duplicates().end());
  } else if (!builder.duplicates().empty()) {
    std::string message;
    for (const std::string& line : builder.duplicates()) message += (message.empty() ? "" : "\n") + line;
    throw Error(kind, message);
  }
  return builder.take();
}

}  // namespace qat

// JSON values that know where they came from, a strict reader, and a writer whose numbers read back as themselves.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "kernels/common/error.h"

namespace qat {

// The text that values were read from: named in their errors, which are of this kind.
struct JsonSource {
  std::string name;
  ErrorKind kind = ErrorKind::kConfig;
};

class Value {
 public:
  struct Member;  // key and value
  using Array = std::vector<Value>;
  using Object = std::vector<Member>;  // in the order of the text, or of set()
  enum class Type : std::uint8_t { kNull, kBool, kInt, kDouble, kString, kArray, kObject };

  Value() = default;  // null
  template <std::same_as<bool> T>
  Value(T value) : data_(value) {}  // NOLINT(google-explicit-constructor): so that object({{"loss", loss}}) reads well
  template <std::integral T>
  requires(!std::same_as<T, bool>) Value(T value) : data_(checked(value)) {}  // NOLINT(google-explicit-constructor)
  Value(double value) : data_(value) {}                                       // NOLINT(google-explicit-constructor)
  Value(std::string value) : data_(std::move(value)) {}                       // NOLINT(google-explicit-constructor)
  Value(std::string_view value) : data_(std::string(value)) {}                // NOLINT(google-explicit-constructor)
  Value(const char* value) : data_(std::string(value)) {}                     // NOLINT(google-explicit-constructor)
  // The elements of any vector whose elements are values.
  template <typename T>
  static Value array(const std::vector<T>& items);
  static Value array(Array items = {});
  static Value object(std::vector<Member> members = {});

  Type type() const { return static_cast<Type>(data_.index()); }
  bool is_null() const { return type() == Type::kNull; }
  bool is_bool() const { return type() == Type::kBool; }
  bool is_int() const { return type() == Type::kInt; }
  bool is_number() const { return is_int() || type() == Type::kDouble; }
  bool is_string() const { return type() == Type::kString; }
  bool is_array() const { return type() == Type::kArray; }
  bool is_object() const { return type() == Type::kObject; }

  // The content; another type throws an error of the source's kind that names place, value and what was expected.
  bool as_bool() const;
  std::int64_t as_int() const;  // also a number such as 8.0 or 1e3, if it is whole and below 2^53
  double as_double() const;     // any number
  const std::string& as_string() const;
  const Array& as_array() const;
  const Object& as_object() const;

  // A member of an object: find() gives nullptr where it is missing, at() throws.
  const Value* find(std::string_view key) const;
  Value* find(std::string_view key);
  const Value& at(std::string_view key) const;
  // Adds a member, or replaces its value.
  Value& set(std::string_view key, Value value);
  void push_back(Value value);

  // "file:line", or the source's name if it has no lines; empty for values that were not read.
  std::string where() const;
  std::string where(int line) const;  // the same of another line of that source
  int line() const { return line_; }  // from 1; 0: unknown
  void set_place(std::shared_ptr<const JsonSource> source, int line);

  // Equal types and contents (1 is not 1.0); places do not matter.
  friend bool operator==(const Value& a, const Value& b) { return a.data_ == b.data_; }

 private:
  template <std::integral T>
  static std::int64_t checked(T value) {
    QAT_CHECK(std::in_range<std::int64_t>(value), "a JSON integer has at most 63 bits");
    return static_cast<std::int64_t>(value);
  }
  [[noreturn]] void fail(const std::string& expected) const;

  std::variant<std::monostate, bool, std::int64_t, double, std::string, Array, Object> data_;
  std::shared_ptr<const JsonSource> source_;
  int line_ = 0;
};

struct Value::Member {
  std::string key;
  Value value;
  int line = 0;  // of the key
  friend bool operator==(const Member& a, const Member& b) { return a.key == b.key && a.value == b.value; }
};

template <typename T>
Value Value::array(const std::vector<T>& items) {
  return array(Array(items.begin(), items.end()));
}

// Deepest nesting of arrays and objects that is read.
constexpr int kMaxJsonDepth = 64;

// Reads one JSON value; // and /* */ comments are allowed. Throws an error of `kind` with source:line:column for syntax
// errors and for nesting beyond kMaxJsonDepth. An object's key must not repeat: where it does, the first value stays,
// and a line per repetition goes to `duplicates`, or is thrown if that is null.
Value parse_json(std::string_view text, const std::string& source_name, ErrorKind kind = ErrorKind::kConfig,
                 std::vector<std::string>* duplicates = nullptr);

// JSON text without a final newline: on one line if indent < 0, else indented by so many blanks a level (arrays of
// plain values stay on one line). Members in the object's order. Doubles in the fewest digits that read back as the
// same double, always with '.' or an exponent; NaN and infinities as null; bytes that are not UTF-8 as U+FFFD.
std::string to_json(const Value& value, int indent = -1);

// Whether text is well-formed UTF-8 (no overlong forms, no surrogates).
bool is_utf8(std::string_view text);

}  // namespace qat

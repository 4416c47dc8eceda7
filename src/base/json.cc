#include "src/base/json.h"

#include <cmath>

namespace qat {

Value Value::array(Array items) {
  Value result;
  result.data_ = std::move(items);
  return result;
}

Value Value::object(std::vector<Member> members) {
  Value result;
  result.data_ = std::move(members);
  return result;
}

bool Value::as_bool() const {
  if (!is_bool()) fail("true or false");
  return std::get<bool>(data_);
}

std::int64_t Value::as_int() const {
  if (is_int()) return std::get<std::int64_t>(data_);
  constexpr double kExact = 9007199254740992.0;  // 2^53: beyond, a double no longer tells neighbouring integers apart
  if (type() == Type::kDouble) {
    const double number = std::get<double>(data_);
    if (std::abs(number) < kExact && number == std::trunc(number)) return static_cast<std::int64_t>(number);
  }
  fail("an integer");
}

double Value::as_double() const {
  if (is_int()) return static_cast<double>(std::get<std::int64_t>(data_));
  if (type() != Type::kDouble) fail("a number");
  return std::get<double>(data_);
}

const std::string& Value::as_string() const {
  if (!is_string()) fail("a string");
  return std::get<std::string>(data_);
}

const Value::Array& Value::as_array() const {
  if (!is_array()) fail("an array");
  return std::get<Array>(data_);
}

const Value::Object& Value::as_object() const {
  if (!is_object()) fail("an object");
  return std::get<Object>(data_);
}

const Value* Value::find(std::string_view key) const {
  for (const Member& member : as_object()) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

Value* Value::find(std::string_view key) { return const_cast<Value*>(std::as_const(*this).find(key)); }

const Value& Value::at(std::string_view key) const {
  const Value* found = find(key);
  if (found == nullptr) fail("an object with the member \"" + std::string(key) + "\"");
  return *found;
}

Value& Value::set(std::string_view key, Value value) {
  QAT_CHECK(is_object(), "only an object has members");
  auto& members = std::get<Object>(data_);
  for (Member& member : members) {
    if (member.key != key) continue;
    member.value = std::move(value);
    return member.value;
  }
  members.push_back({std::string(key), std::move(value)});
  return members.back().value;
}

void Value::push_back(Value value) {
  QAT_CHECK(is_array(), "only an array has elements");
  std::get<Array>(data_).push_back(std::move(value));
}

std::string Value::where() const { return where(line_); }

std::string Value::where(int line) const {
  if (source_ == nullptr) return "";
  return line > 0 ? source_->name + ":" + std::to_string(line) : source_->name;
}

void Value::set_place(std::shared_ptr<const JsonSource> source, int line) {
  source_ = std::move(source);
  line_ = line;
}

void Value::fail(const std::string& expected) const {
  constexpr std::size_t kShown = 80;
  std::string shown = to_json(*this);
  if (shown.size() > kShown) shown = shown.substr(0, kShown) + "...";
  const std::string place = where();
  throw Error(source_ == nullptr ? ErrorKind::kInternal : source_->kind,
              (place.empty() ? "JSON" : place) + ": expected " + expected + ", found " + shown);
}

}  // namespace qat

#include "src/export/safetensors_header.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "kernels/common/error.h"
#include "src/base/json.h"

namespace qat {
namespace {

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::size_t kMostAxes = 8;

struct StoredType {
  std::string_view name;
  std::int64_t bytes;
};
constexpr std::array<StoredType, 17> kTypes = {{{"F64", 8},
                                                {"F32", 4},
                                                {"F16", 2},
                                                {"BF16", 2},
                                                {"I64", 8},
                                                {"I32", 4},
                                                {"I16", 2},
                                                {"I8", 1},
                                                {"U64", 8},
                                                {"U32", 4},
                                                {"U16", 2},
                                                {"U8", 1},
                                                {"BOOL", 1},
                                                {"F8_E4M3", 1},
                                                {"F8_E5M2", 1},
                                                {"F8_E8M0", 1},
                                                {"C64", 8}}};

class HeaderReader {
 public:
  HeaderReader(std::int64_t data_bytes, const std::string& source) : data_bytes_(data_bytes), source_(source) {}

  std::vector<StoredTensor> read(std::string_view text) const {
    if (!text.starts_with('{')) fail("its header does not begin with '{'");
    const Value root = parse_json(text, source_, ErrorKind::kData);
    std::vector<StoredTensor> tensors;
    for (const Value::Member& member : root.as_object()) {
      if (member.key == kMetadata) {
        for (const Value::Member& entry : member.value.as_object()) (void)entry.value.as_string();
      } else {
        tensors.push_back(tensor(member));
      }
    }
    std::sort(tensors.begin(), tensors.end(), [](const StoredTensor& a, const StoredTensor& b) {
      return std::pair(a.begin, a.end) < std::pair(b.begin, b.end);
    });
    require_whole(tensors);
    return tensors;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw Error(ErrorKind::kData, fmt::format("{}: {}", source_, what));
  }
  [[noreturn]] void fail(std::string_view tensor, const std::string& what) const {
    fail(fmt::format("tensor {}: {}", shown_name(tensor), what));
  }

  StoredTensor tensor(const Value::Member& member) const {
    StoredTensor out;
    out.name = member.key;
    for (const Value::Member& field : member.value.as_object())
      if (field.key != "dtype" && field.key != "shape" && field.key != "data_offsets")
        fail(out.name, fmt::format("a field {} that is not of this format", shown_name(field.key)));
    out.dtype = member.value.at("dtype").as_string();
    const auto* type = std::find_if(kTypes.begin(), kTypes.end(), [&](const auto& t) { return t.name == out.dtype; });
    if (type == kTypes.end()) fail(out.name, fmt::format("of type {}, which is not known", shown_name(out.dtype)));
    read_shape(member.value.at("shape"), out);
    read_offsets(member.value.at("data_offsets"), out);
    std::int64_t bytes = 0;
    if (__builtin_mul_overflow(out.elems, type->bytes, &bytes) || bytes != out.end - out.begin)
      fail(out.name, fmt::format("data_offsets [{}, {}] are {} bytes, but {} {} has another number", out.begin, out.end,
                                 out.end - out.begin, out.dtype, shape_text(out.shape)));
    return out;
  }

  void read_shape(const Value& value, StoredTensor& out) const {
    const Value::Array& axes = value.as_array();
    if (axes.size() > kMostAxes) fail(out.name, fmt::format("{} axes; at most {} are read", axes.size(), kMostAxes));
    out.elems = 1;
    for (const Value& axis : axes) {
      if (!axis.is_int() || axis.as_int() < 0) fail(out.name, "its shape is no list of integers from 0 on");
      out.shape.push_back(axis.as_int());
      if (__builtin_mul_overflow(out.elems, axis.as_int(), &out.elems))
        fail(out.name, fmt::format("{} elements are more than can be counted", shape_text(out.shape)));
    }
  }

  void read_offsets(const Value& value, StoredTensor& out) const {
    const Value::Array& offsets = value.as_array();
    if (offsets.size() != 2 || !offsets[0].is_int() || !offsets[1].is_int())
      fail(out.name, "data_offsets are not two integers");
    out.begin = offsets[0].as_int();
    out.end = offsets[1].as_int();
    if (out.begin < 0 || out.end < out.begin || out.end > data_bytes_)
      fail(out.name, fmt::format("data_offsets [{}, {}] do not lie in the file's {} bytes of tensors{}", out.begin,
                                 out.end, data_bytes_, out.end > data_bytes_ ? ": is the copy complete?" : ""));
  }

  // tensors: ascending.
  void require_whole(const std::vector<StoredTensor>& tensors) const {
    std::int64_t end = 0;
    for (const StoredTensor& tensor : tensors) {
      if (tensor.begin < end) fail(tensor.name, fmt::format("byte {} belongs to another tensor, too", tensor.begin));
      if (tensor.begin > end)
        fail(tensor.name, fmt::format("bytes {} to {} before it belong to no tensor", end, tensor.begin));
      end = tensor.end;
    }
    if (end != data_bytes_)
      fail(fmt::format("the file has {} bytes of tensors, but its header speaks of {}", data_bytes_, end));
  }

  std::int64_t data_bytes_;
  const std::string& source_;
};

}  // namespace

std::optional<FloatFormat> StoredTensor::format() const {
  if (dtype == "F32") return FloatFormat::kFloat32;
  if (dtype == "F16") return FloatFormat::kFloat16;
  if (dtype == "BF16") return FloatFormat::kBFloat16;
  return std::nullopt;
}

std::string shown_name(std::string_view name) {
  constexpr std::size_t kShown = 80;
  return to_json(Value(name.size() <= kShown ? std::string(name) : std::string(name.substr(0, kShown)) + "..."));
}

std::string shape_text(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ", ")); }

std::vector<StoredTensor> parse_safetensors_header(std::string_view text, std::int64_t data_bytes,
                                                   const std::string& source) {
  return HeaderReader(data_bytes, source).read(text);
}

std::string safetensors_header(const std::vector<StoredTensor>& tensors) {
  Value root = Value::object();
  root.set(kMetadata, Value::object({{"format", "pt"}}));  // transformers reads no file without it
  std::string json = to_json(root);
  json.pop_back();
  // Value::set looks for the key among all others: too slow for many.
  for (const StoredTensor& tensor : tensors)
    json += fmt::format(",{}:{}", to_json(Value(tensor.name)),
                        to_json(Value::object({{"dtype", tensor.dtype},
                                               {"shape", Value::array(tensor.shape)},
                                               {"data_offsets", Value::array(Shape{tensor.begin, tensor.end})}})));
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = json.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out + json;
}

}  // namespace qat

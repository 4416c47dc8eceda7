// The floating-point formats that model files of other programs come in, and fp32.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "src/base/named_enum.h"

namespace qat {

enum class FloatFormat : unsigned char { kFloat32, kFloat16, kBFloat16 };
template <>
struct EnumNames<FloatFormat> {  // as torch_dtype calls them
  static constexpr std::array names{"float32", "float16", "bfloat16"};
};

constexpr std::int64_t bytes_of(FloatFormat format) { return format == FloatFormat::kFloat32 ? 4 : 2; }

// Little-endian numbers to fp32: exact.   bytes: bytes_of(format) * out.size()
void to_float(FloatFormat format, std::span<const std::byte> bytes, std::span<float> out);

// fp32 to little-endian numbers, rounded to nearest, ties to even: exact where the value is one of the format.
// Overflow becomes an infinity.   bytes: bytes_of(format) * values.size()
void from_float(FloatFormat format, std::span<const float> values, std::span<std::byte> bytes);

}  // namespace qat

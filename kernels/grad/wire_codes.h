// Flat fp32 values as they travel between ranks: bf16, or integer codes with one scale for each block of consecutive
// values; and their sums.
//
// `parts` messages of `elems` values each leave a rank, one for each rank that adds up what it receives. With
// y[i] = x[i] + residual[i], block j of a part, and q_max = 127 (int8) or 7 (int4):
//
//   amax[j]  = max |y[i]|, NaN if one is                       scale[j] = max(amax[j], 1e-30) / q_max
//   q[i]     = clamp(round(y[i] * (1 / scale[j])), -q_max, q_max), to nearest even, or floor(. + u), u in [0, 1)
//   value[i] = q[i] * scale[j]; NaN in a block whose amax is not finite                left[i] = y[i] - value[i]
//
// Two int4 codes share a byte, the first in the low half. bf16 is rounded to nearest even and has no scales.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/philox.h"

namespace qat::kernels {

enum class WireFormat : std::uint8_t { kFloat32, kBFloat16, kInt8, kInt4 };

constexpr bool has_codes(WireFormat format) noexcept {
  return format == WireFormat::kInt8 || format == WireFormat::kInt4;
}
// The largest code.
constexpr int wire_q_max(WireFormat format) noexcept { return format == WireFormat::kInt4 ? 7 : 127; }
// Scales stay finite and positive on blocks of zeros, and their reciprocals finite.
constexpr float kWireAmaxFloor = 1e-30F;

// What is sent or received: `parts` messages one after the other.
struct WireShape {
  WireFormat format = WireFormat::kInt8;
  std::int64_t parts = 1;
  std::int64_t elems = 0;    // of a part
  std::int64_t block = 256;  // values that share a scale; the last block of a part may be shorter
  // Of parts that are numbered (node, place in the node), how many places a node has: messages lie in the order of
  // (place, node) then. 0: in the order of the parts.
  std::int64_t places = 0;

  std::int64_t blocks() const noexcept { return (elems + block - 1) / block; }  // of a part
  std::int64_t part_bytes() const noexcept {                                    // without scales
    switch (format) {
      case WireFormat::kFloat32:
        return 4 * elems;
      case WireFormat::kBFloat16:
        return 2 * elems;
      case WireFormat::kInt8:
        return elems;
      case WireFormat::kInt4:
        return (elems + 1) / 2;
    }
    return 0;
  }
  QAT_HOST_DEVICE constexpr std::int64_t message_of(std::int64_t part) const noexcept {
    return places == 0 ? part : part % places * (parts / places) + part / places;
  }
};

struct WireRounding {
  bool stochastic = false;
  RngKey key{};
  std::uint64_t first = 0;  // draw of the first part's first value; the others follow in the order of the parts
};

// amax: [parts * blocks], in the order of the messages. residual: [parts * elems] like x, or empty for zeros.
void wire_amax(const Exec& exec, std::span<const float> x, std::span<const float> residual, const WireShape& shape,
               std::span<float> amax);

// messages: [parts * part_bytes]. amax: as above; unused for bf16 and fp32. left: empty, or [parts * elems] in the
// order of the parts; it may be x.
void wire_encode(const Exec& exec, std::span<const float> x, std::span<const float> residual,
                 std::span<const float> amax, const WireShape& shape, const WireRounding& rounding,
                 std::span<std::uint8_t> messages, std::span<float> left);

// sum[i] = the tree (tree_sum.h) over the parts of value[i]. messages, amax: as encoded, by parts, each with its own
// scales.
void wire_sum(const Exec& exec, std::span<const std::uint8_t> messages, std::span<const float> amax,
              const WireShape& shape, std::span<float> sum);

// Integers that are added exactly.
enum class WireInteger : std::uint8_t { kInt4, kInt8, kInt16, kInt32 };

constexpr WireInteger integer_of(WireFormat format) noexcept {
  return format == WireFormat::kInt4 ? WireInteger::kInt4 : WireInteger::kInt8;
}
constexpr std::int64_t bytes_of(WireInteger type, std::int64_t elems) noexcept {
  switch (type) {
    case WireInteger::kInt4:
      return (elems + 1) / 2;
    case WireInteger::kInt8:
      return elems;
    case WireInteger::kInt16:
      return 2 * elems;
    case WireInteger::kInt32:
      return 4 * elems;
  }
  return 0;
}
// The narrowest of kInt8 and wider that holds the sum of so many of the format's codes.
WireInteger integer_for_sum(WireFormat format, std::int64_t codes);

// sum[i] = the sum over the parts of code[i], as `sum_type`, which holds it. codes: [parts * bytes_of(type, elems)];
// sums: [bytes_of(sum_type, elems)], aligned for its type.
void sum_codes(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
               std::int64_t elems, std::span<std::uint8_t> sums, WireInteger sum_type);

// values[i] = scale[j] * (the sum over the parts of code[i]), rounded once: the parts share their scales. amax:
// [blocks].
void scale_codes(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                 std::span<const float> amax, const WireShape& shape, std::span<float> values);

}  // namespace qat::kernels

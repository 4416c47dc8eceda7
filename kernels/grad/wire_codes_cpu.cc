#include "kernels/grad/wire_codes_cpu.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/common/scratch.h"
#include "kernels/grad/tree_sum_cpu.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kGrainElems = 16384;
constexpr std::int64_t kChunkElems = 1024;  // summed at a time, so that the parts' values stay in the cache

// Elements [begin, end) of a part.
struct Range {
  std::int64_t begin, end;
};
Range block_range(const WireShape& shape, std::int64_t block) {
  return {block * shape.block, std::min(shape.elems, (block + 1) * shape.block)};
}

float sum_at(std::span<const float> x, std::span<const float> residual, std::int64_t i) {
  const auto at = static_cast<std::size_t>(i);
  return residual.empty() ? x[at] : x[at] + residual[at];
}

// As magnitudes' bits, which order like the magnitudes, with NaN on top.
std::int32_t magnitude_bits(float value) { return std::bit_cast<std::int32_t>(value) & 0x7FFFFFFF; }

struct Scale {
  float scale, inverse;
  bool finite;
};
Scale scale_of(float amax, int q_max) {
  const float scale = std::max(amax, kWireAmaxFloor) / static_cast<float>(q_max);
  if (!std::isfinite(amax)) return {std::numeric_limits<float>::quiet_NaN(), 0.0F, false};
  return {scale, 1.0F / scale, true};  // rounded once, as everywhere codes are made
}

// Of |value| <= 2^22, to nearest even.
float round_even(float value) {
  constexpr float kMagic = 12582912.0F;  // 1.5 * 2^23
  const float shifted = value + kMagic;
  return shifted - kMagic;
}

std::uint16_t to_bf16(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if (std::isnan(value)) return 0x7FFF;
  return static_cast<std::uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}
float from_bf16(std::uint16_t value) { return std::bit_cast<float>(static_cast<std::uint32_t>(value) << 16U); }

int low_half(std::uint8_t byte) { return static_cast<std::int8_t>(static_cast<std::uint8_t>(byte << 4U)) >> 4; }
int high_half(std::uint8_t byte) { return static_cast<std::int8_t>(byte) >> 4; }

template <typename T>
T load(const std::uint8_t* bytes, std::int64_t i) {
  T value;
  std::memcpy(&value, bytes + i * static_cast<std::int64_t>(sizeof(T)), sizeof(T));
  return value;
}
template <typename T>
void store(std::uint8_t* bytes, std::int64_t i, T value) {
  std::memcpy(bytes + i * static_cast<std::int64_t>(sizeof(T)), &value, sizeof(T));
}

int code_at(const std::uint8_t* codes, WireInteger type, std::int64_t i) {
  switch (type) {
    case WireInteger::kInt4:
      return i % 2 == 0 ? low_half(codes[i / 2]) : high_half(codes[i / 2]);
    case WireInteger::kInt8:
      return load<std::int8_t>(codes, i);
    case WireInteger::kInt16:
      return load<std::int16_t>(codes, i);
    case WireInteger::kInt32:
      return load<std::int32_t>(codes, i);
  }
  return 0;
}

// sums[0, end - begin) += codes[begin, end).
void add_codes(const std::uint8_t* codes, WireInteger type, Range range, std::int32_t* sums) {
  if (type == WireInteger::kInt8) {
    for (std::int64_t i = range.begin; i < range.end; ++i) sums[i - range.begin] += static_cast<std::int8_t>(codes[i]);
    return;
  }
  for (std::int64_t i = range.begin; i < range.end; ++i) sums[i - range.begin] += code_at(codes, type, i);
}

// Codes of one block, each on its own: the values that they stand for are y - left.
class BlockEncoder {
 public:
  BlockEncoder(const Scale& scale, int q_max, const WireRounding& rounding)
      : scale_(scale), q_max_(static_cast<float>(q_max)), rounding_(rounding) {}

  // index: of the value among all parts'.
  int code(float y, std::int64_t index) const {
    if (!scale_.finite) return 0;
    const float exact = y * scale_.inverse;
    if (!rounding_.stochastic) return static_cast<int>(round_even(std::clamp(exact, -q_max_, q_max_)));
    const float draw = uniform_at(rounding_.key, rounding_.first + static_cast<std::uint64_t>(index));
    return static_cast<int>(std::clamp(std::floor(exact + draw), -q_max_, q_max_));
  }
  float value(int code) const { return static_cast<float>(code) * scale_.scale; }

 private:
  Scale scale_;
  float q_max_;
  WireRounding rounding_;
};

// Elements [range) of a part, whose first is number `first` among all parts'.
struct PartSource {
  std::span<const float> x, residual;
  std::span<float> left;
  std::int64_t first;
};

void encode_block(const PartSource& from, Range range, const BlockEncoder& encoder, WireFormat format,
                  std::uint8_t* message) {
  const auto encode = [&](std::int64_t i) {
    const std::int64_t index = from.first + i;
    const float y = sum_at(from.x, from.residual, index);
    const int code = encoder.code(y, index);
    if (!from.left.empty()) from.left[static_cast<std::size_t>(index)] = y - encoder.value(code);
    return code;
  };
  if (format == WireFormat::kInt8) {
    for (std::int64_t i = range.begin; i < range.end; ++i)
      message[i] = static_cast<std::uint8_t>(static_cast<std::int8_t>(encode(i)));
    return;
  }
  // A byte belongs to the block of its first code; a block of an odd number leaves the half of its last to the next.
  for (std::int64_t i = range.begin; i < range.end; ++i) {
    const auto half = static_cast<std::uint8_t>(encode(i) & 0xF);
    std::uint8_t& byte = message[i / 2];
    byte = i % 2 == 0 ? half : static_cast<std::uint8_t>((byte & 0xFU) | static_cast<unsigned>(half) << 4U);
  }
}

void encode_floats(const PartSource& from, const WireShape& shape, std::uint8_t* message) {
  for (std::int64_t i = 0; i < shape.elems; ++i) {
    const float y = sum_at(from.x, from.residual, from.first + i);
    float value = y;
    if (shape.format == WireFormat::kBFloat16) {
      const std::uint16_t code = to_bf16(y);
      store(message, i, code);
      value = from_bf16(code);
    } else {
      store(message, i, y);
    }
    if (!from.left.empty()) from.left[static_cast<std::size_t>(from.first + i)] = y - value;
  }
}

// values[0, end - begin) of a part's elements [begin, end).
void decode(const std::uint8_t* message, const float* amax, const WireShape& shape, Range range, float* values) {
  if (!has_codes(shape.format)) {
    for (std::int64_t i = range.begin; i < range.end; ++i)
      values[i - range.begin] =
          shape.format == WireFormat::kBFloat16 ? from_bf16(load<std::uint16_t>(message, i)) : load<float>(message, i);
    return;
  }
  for (std::int64_t at = range.begin; at < range.end;) {
    const std::int64_t block = at / shape.block, end = std::min(range.end, (block + 1) * shape.block);
    const float scale = scale_of(amax[block], wire_q_max(shape.format)).scale;
    for (; at < end; ++at)
      values[at - range.begin] = static_cast<float>(code_at(message, integer_of(shape.format), at)) * scale;
  }
}

}  // namespace

void wire_amax_cpu(const Exec& exec, std::span<const float> x, std::span<const float> residual, const WireShape& shape,
                   std::span<float> amax) {
  const std::int64_t blocks = shape.blocks();
  exec.for_ranges(shape.parts * blocks, std::max<std::int64_t>(1, kGrainElems / shape.block),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t b = begin; b < end; ++b) {
                      const std::int64_t part = b / blocks;
                      const Range range = block_range(shape, b % blocks);
                      std::int32_t most = 0;
                      for (std::int64_t i = part * shape.elems + range.begin; i < part * shape.elems + range.end; ++i)
                        most = std::max(most, magnitude_bits(sum_at(x, residual, i)));
                      amax[static_cast<std::size_t>(shape.message_of(part) * blocks + b % blocks)] =
                          std::bit_cast<float>(most);
                    }
                  });
}

void wire_encode_cpu(const Exec& exec, std::span<const float> x, std::span<const float> residual,
                     std::span<const float> amax, const WireShape& shape, const WireRounding& rounding,
                     std::span<std::uint8_t> messages, std::span<float> left) {
  const std::int64_t blocks = shape.blocks();
  for (std::int64_t part = 0; part < shape.parts; ++part) {
    const PartSource from{.x = x, .residual = residual, .left = left, .first = part * shape.elems};
    std::uint8_t* const message = messages.data() + shape.message_of(part) * shape.part_bytes();
    if (!has_codes(shape.format)) {
      encode_floats(from, shape, message);
      continue;
    }
    const float* const scales = amax.data() + shape.message_of(part) * blocks;
    const int q_max = wire_q_max(shape.format);
    // Blocks of an odd number of int4 codes share bytes with their neighbours.
    const bool alone = shape.format == WireFormat::kInt4 && shape.block % 2 != 0;
    exec.for_ranges(blocks, alone ? blocks : std::max<std::int64_t>(1, kGrainElems / shape.block),
                    [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t b = begin; b < end; ++b)
                        encode_block(from, block_range(shape, b),
                                     BlockEncoder(scale_of(scales[b], q_max), q_max, rounding), shape.format, message);
                    });
  }
}

void wire_sum_cpu(const Exec& exec, std::span<const std::uint8_t> messages, std::span<const float> amax,
                  const WireShape& shape, std::span<float> sum) {
  exec.for_ranges(shape.elems, kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    const Scratch<float> values(shape.parts * kChunkElems);
    for (std::int64_t at = begin; at < end; at += kChunkElems) {
      const Range range{at, std::min(end, at + kChunkElems)};
      const std::int64_t elems = range.end - range.begin;
      for (std::int64_t part = 0; part < shape.parts; ++part)
        decode(messages.data() + part * shape.part_bytes(),
               has_codes(shape.format) ? amax.data() + part * shape.blocks() : nullptr, shape, range,
               values.get() + part * elems);
      tree_sum_cpu(Exec{}, {values.get(), static_cast<std::size_t>(shape.parts * elems)}, shape.parts,
                   sum.subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(elems)));
    }
  });
}

void sum_codes_cpu(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                   std::int64_t elems, std::span<std::uint8_t> sums, WireInteger sum_type) {
  exec.for_ranges(elems, kGrainElems, [&](std::int64_t begin, std::int64_t end) {
    const Scratch<std::int32_t> total(kChunkElems);
    for (std::int64_t at = begin; at < end; at += kChunkElems) {
      const Range range{at, std::min(end, at + kChunkElems)};
      std::fill_n(total.get(), range.end - range.begin, 0);
      for (std::int64_t part = 0; part < parts; ++part)
        add_codes(codes.data() + part * bytes_of(type, elems), type, range, total.get());
      for (std::int64_t i = range.begin; i < range.end; ++i) {
        const std::int32_t value = total.get()[i - range.begin];
        if (sum_type == WireInteger::kInt8)
          store(sums.data(), i, static_cast<std::int8_t>(value));
        else if (sum_type == WireInteger::kInt16)
          store(sums.data(), i, static_cast<std::int16_t>(value));
        else
          store(sums.data(), i, value);
      }
    }
  });
}

void scale_codes_cpu(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                     std::span<const float> amax, const WireShape& shape, std::span<float> values) {
  const std::int64_t blocks = shape.blocks();
  exec.for_ranges(blocks, std::max<std::int64_t>(1, kGrainElems / shape.block),
                  [&](std::int64_t begin, std::int64_t end) {
                    const Scratch<std::int32_t> total(shape.block);
                    for (std::int64_t b = begin; b < end; ++b) {
                      const Range range = block_range(shape, b);
                      std::fill_n(total.get(), range.end - range.begin, 0);
                      for (std::int64_t part = 0; part < parts; ++part)
                        add_codes(codes.data() + part * bytes_of(type, shape.elems), type, range, total.get());
                      const float scale = scale_of(amax[static_cast<std::size_t>(b)], wire_q_max(shape.format)).scale;
                      for (std::int64_t i = range.begin; i < range.end; ++i)
                        values[static_cast<std::size_t>(i)] = static_cast<float>(total.get()[i - range.begin]) * scale;
                    }
                  });
}

}  // namespace qat::kernels

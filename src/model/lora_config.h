// Adapters of the linear layers: whether widths share them, and what each is like. JSON section "lora".
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "kernels/common/bit_width.h"
#include "src/base/named_enum.h"

namespace qat {

// Whether all widths use the same adapters (layer norms), or each has its own.
enum class Slots : unsigned char { kShared, kPerWidth };
template <>
struct EnumNames<Slots> {
  static constexpr std::array names{"shared", "per_width"};
};

// What an adapter reads of its layer's input: the quantized values that the layer multiplies, or those before
// quantization.
enum class AdapterInput : unsigned char { kQuantized, kRaw };
template <>
struct EnumNames<AdapterInput> {
  static constexpr std::array names{"quantized", "raw"};
};

// Where rank and alpha of widths' own adapters come from: the two keys, or width and layer (adapter_shape).
enum class RankRule : unsigned char { kFixed, kByWidth };
template <>
struct EnumNames<RankRule> {
  static constexpr std::array names{"fixed", "by_width"};
};

// What the adapters of one width have of their own; what is not given is as for all widths.
struct WidthAdapter {
  int bits = 0;
  std::optional<std::int64_t> rank;
  std::optional<double> alpha;
  std::optional<bool> quantize;
  std::optional<AdapterInput> input;
};

struct LoraConfig {                               // W x + (alpha / rank) B A x; B starts at zero. Off at 32 bits
  std::int64_t rank = 16;                         // 0: no adapters
  double alpha = 32.0;                            // scaling is alpha / rank
  bool quantize = true;                           // A and B are quantized at the weight width, each with its own scales
  Slots slots = Slots::kShared;                   // one adapter a layer, or one for each width
  RankRule rank_rule = RankRule::kFixed;          // by_width: rank and alpha above count for nothing
  AdapterInput input = AdapterInput::kQuantized;  // what A multiplies
  std::vector<WidthAdapter> per_width;            // one entry a width at most; slots per_width only
};

// One adapter.
struct AdapterShape {
  std::int64_t rank = 0;  // 0: there is none
  double alpha = 0.0;
  bool quantize = true;
  AdapterInput input = AdapterInput::kQuantized;

  double scaling() const { return alpha / static_cast<double>(rank); }
};

// Of a layer with so many inputs, at one weight width below 32; bits 0: the one that widths share. Rank by width, with
// in = in_features, is
//   up to 4 bits   max(1, min(4, in / 128))       5 to 8 bits   max(2, min(8, in / 64))
//   above          max(4, min(16, in / 32))       alpha = floor(rank bits / 2): the scaling is about bits / 2
// in whole numbers, and an entry of per_width goes over it.
inline AdapterShape adapter_shape(const LoraConfig& lora, int bits, std::int64_t in_features) {
  AdapterShape shape{.rank = lora.rank, .alpha = lora.alpha, .quantize = lora.quantize, .input = lora.input};
  if (bits == 0) return shape;
  const auto found =
      std::find_if(lora.per_width.begin(), lora.per_width.end(), [&](const auto& one) { return one.bits == bits; });
  const WidthAdapter own = found == lora.per_width.end() ? WidthAdapter{} : *found;
  if (lora.rank_rule == RankRule::kByWidth)
    shape.rank = bits <= 4   ? std::clamp<std::int64_t>(in_features / 128, 1, 4)
                 : bits <= 8 ? std::clamp<std::int64_t>(in_features / 64, 2, 8)
                             : std::clamp<std::int64_t>(in_features / 32, 4, 16);
  shape.rank = own.rank.value_or(shape.rank);
  if (lora.rank_rule == RankRule::kByWidth) {
    const std::int64_t alpha = shape.rank * bits / 2;
    shape.alpha = static_cast<double>(alpha);
  }
  shape.alpha = own.alpha.value_or(shape.alpha);
  shape.quantize = own.quantize.value_or(shape.quantize);
  shape.input = own.input.value_or(shape.input);
  return shape;
}

// Whether layers have adapters at some of these weight widths.
inline bool has_adapters(const LoraConfig& lora, const std::vector<int>& widths) {
  if (lora.slots == Slots::kShared) return lora.rank > 0;
  return std::any_of(widths.begin(), widths.end(), [&](int bits) {
    return bits != BitWidth::kFull && adapter_shape(lora, bits, /*in_features=*/0).rank > 0;
  });
}

}  // namespace qat

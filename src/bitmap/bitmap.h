// A map laid over a model: the widths of every quantized linear layer, and of every block's keys and values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/bitmap/bitmap_text.h"

namespace qat {

// Quantized linear layers of a block, in order of use: attn.c_attn, attn.c_proj, mlp.c_fc, mlp.c_proj.
constexpr std::int64_t kLinearsPerBlock = 4;

// What of a model decides about its maps.
struct BitmapShape {
  std::int64_t blocks = 1;
  std::int64_t n_embd = 1;
  std::int64_t head_outputs = 0;  // 0: the output projection is not quantized

  std::int64_t linears() const { return kLinearsPerBlock * blocks + (head_outputs > 0 ? 1 : 0); }
  // Multiply-accumulates of a linear layer for one token.
  std::int64_t macs(std::int64_t linear) const;
};

struct LinearBits {
  int weight = 32;
  int activation = kBitsAsConfigured;
  friend bool operator==(const LinearBits&, const LinearBits&) = default;
};

struct Bitmap {
  std::vector<LinearBits> linears;  // by index in PrecisionMap
  std::vector<int> kv;              // by block; kBitsAsConfigured where the map does not say
  friend bool operator==(const Bitmap&, const Bitmap&) = default;
};

// Throws Error(kConfig), with a rule that follows the offending value, for a map that does not fit the model: another
// number of layers or blocks, a width for a head that is not quantized or none for one that is, a pattern of which the
// model is too small to have all.
Bitmap expand(const BitmapText& bitmap, const BitmapShape& shape);

// The map's widths alone, the same text however they were written: "24x8,24x4" from the first linear layer's weights
// on, and, where the map says so, " act 48x8 kv 12x8" (0: as configured).
std::string canonical_text(const Bitmap& bitmap);

// What the map gives linear layers, whatever the model: each pair of widths once.
std::vector<LinearBits> linear_bits(const BitmapText& bitmap);

// The weights' width that most multiply-accumulates have, ties to the larger: what the map as a whole counts as.
int nominal_width(const Bitmap& bitmap, const BitmapShape& shape);
// The mean over multiply-accumulates: what maps are ordered by.
double mean_width(const Bitmap& bitmap, const BitmapShape& shape);

}  // namespace qat

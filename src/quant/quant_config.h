// What is quantized, how, and with which ranges. JSON section "quant".
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qat {

// One role's quantizer (weights or activations).
struct QuantizerConfig {
  std::string method = "minmax";        // minmax | log
  bool symmetric = true;                // minmax only: false is affine (codes 0..2^b-1)
  std::string log_codebook = "packed";  // log only: packed (2^b-1 values) | seed (2^(b+1)-1 values)
  std::string granularity;              // weights: tensor | channel; activations: tensor | token | feature
  std::string range = "dynamic";        // dynamic: from the data at hand; calibrated: from the calibration batches
};

// Widths of the linear layers whose name matches: they replace what the schedule says.
struct LayerOverride {
  std::string layers;       // a glob over names such as h.0.attn.c_attn, h.*.mlp.c_proj, lm_head
  int weight_bits = 0;      // 0: as scheduled
  int activation_bits = 0;  // 0: as scheduled
  int gradient_bits = 0;    // 0: as scheduled
};

struct QuantConfig {
  std::vector<int> widths = {2, 3, 4, 5, 6, 7, 8, 32};  // that training may visit; each 2..18 or 32
  int activation_bits = 0;                              // 0: the weight width of the step; else this width always
  int kv_bits = 32;                                     // of attention's keys and values: 2..8, or 32: not quantized
  QuantizerConfig weight{.granularity = "channel"};
  QuantizerConfig activation{.granularity = "token"};
  bool stochastic_gradients = true;      // gradients are rounded stochastically, else to nearest
  double log_grad_clip = 10.0;           // log quantizer: |gradient| is clamped to this (scale-aware)
  int calibration_batches = 10;          // micro-batches that calibrated ranges are taken from
  std::int64_t recalibrate_every = 0;    // steps after which calibrated ranges are taken anew; 0: never
  std::vector<LayerOverride> overrides;  // applied in order, later ones win
};

}  // namespace qat

// Which widths the values of an exported model have, for whoever reads its files: model.precision.json beside
// model.safetensors.
#pragma once

#include <string>
#include <vector>

namespace qat {

// Of the file that says the widths of what is in this one.
std::string precision_name(const std::string& weights_name);

struct ExportedLayer {
  std::string layer;         // h.0.attn.c_attn, lm_head
  int weight_bits = 32;      // of the values in the file
  int activation_bits = 32;  // of its input in the model that was exported; who loads the files does not quantize it
};

struct ExportedPrecision {
  std::string name;  // of the map, or the width: "stripe8&4", "4"
  std::vector<ExportedLayer> layers;
  std::vector<int> kv_bits;  // by block, likewise of the model that was exported
};

// {"precision", "layers": [{"layer", "weight_bits", "activation_bits"}], "kv_bits"}
std::string precision_json(const ExportedPrecision& precision);

}  // namespace qat

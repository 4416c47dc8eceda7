#include "src/export/exported_precision.h"

#include <utility>

#include "src/base/json.h"

namespace qat {

std::string precision_name(const std::string& weights_name) {
  return weights_name.substr(0, weights_name.rfind('.')) + ".precision.json";
}

std::string precision_json(const ExportedPrecision& precision) {
  Value::Array layers;
  for (const ExportedLayer& one : precision.layers)
    layers.push_back(Value::object(
        {{"layer", one.layer}, {"weight_bits", one.weight_bits}, {"activation_bits", one.activation_bits}}));
  const Value root = Value::object({{"precision", precision.name},
                                    {"layers", Value::array(std::move(layers))},
                                    {"kv_bits", Value::array(precision.kv_bits)}});
  return to_json(root, 2) + "\n";
}

}  // namespace qat

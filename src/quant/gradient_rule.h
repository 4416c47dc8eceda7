// A quantizer's own gradient rule (QuantMethod::backward) for autograd.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

#include "src/quant/quantizer.h"

namespace qat {

// What quantizes x, once more for backward.
struct RuleOf {
  const Quantizer* quantizer = nullptr;  // outlives the graph
  BitWidth width = BitWidth::full();
  std::optional<CalibratedRange> range{};  // none: x's own
  std::int64_t sharing = 1;                // QuantMethod::backward's
};

// Stands for the quantized x in a graph: x's values, dtype and shape, but gradients come as those of quantized values,
// and reach x and `trained`, the parameters that the range's trained members are, by the quantizer's rule.
at::Tensor quantized_by_rule(const at::Tensor& x, const std::vector<at::Tensor>& trained, const RuleOf& rule);

}  // namespace qat

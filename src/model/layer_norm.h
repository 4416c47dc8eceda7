// Layer norm with its parameters (Ba et al., 2016, arXiv:1607.06450), eps 1e-5 as GPT-2 has it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

#include "src/model/fused_block.h"
#include "src/model/parameter_store.h"

namespace qat {

class LayerNorm {
 public:
  // Declares `<name>.weight` and `<name>.bias`, [width] each, in `store`, which outlives this.
  LayerNorm(const std::string& name, std::int64_t width, ParameterStore& store);

  // Norm of the pair's sum: [M, width].
  at::Tensor forward(const ResidualPair& x) const;
  FusedNorm fused() const { return {.weight = store_->tensor(weight_), .bias = store_->tensor(bias_)}; }

 private:
  ParameterStore* store_;
  int weight_ = -1, bias_ = -1;  // parameter ids
};

}  // namespace qat

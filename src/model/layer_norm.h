// Layer norm with its parameters (Ba et al., 2016, arXiv:1607.06450), eps 1e-5 as GPT-2 has it. The parameters may be
// the same at every width, or each width may have its own (switchable norms: Jin et al., 2020, arXiv:1912.09666).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>

#include "src/model/fused_block.h"
#include "src/model/gpt2_config.h"
#include "src/model/parameter_store.h"
#include "src/quant/quant_config.h"

namespace qat {

class LayerNorm {
 public:
  // Declares `<name>.weight` and `<name>.bias`, [features] each, in `store`, which outlives this; with slots per width
  // these are the ones of unquantized passes, and `<name>.w4.weight` is that of 4 bits.
  LayerNorm(const std::string& name, std::int64_t features, Slots slots, const QuantConfig& quant,
            ParameterStore& store);

  // Norm of the pair's sum: [M, features]. weight_bits: the width that the pass is at, here.
  at::Tensor forward(const ResidualPair& x, int weight_bits) const;
  FusedNorm fused(int weight_bits) const;

 private:
  struct Slot {
    int weight = -1, bias = -1;  // parameter ids
  };
  void add(const std::string& name, int weight_bits, GroupKey group);

  ParameterStore* store_;
  std::int64_t features_;
  std::map<int, Slot> slots_;  // by weight width; a shared one at 32
  bool shared_;
};

}  // namespace qat

// What a step costs in bit operations: a multiplication of an a-bit by a b-bit number counts a*b (BitOps, as in CPT,
// arXiv:2101.09868). It is what an ideal bit-serial machine would do, not a measured time.
#pragma once

#include <cstdint>
#include <span>

namespace qat {

// Widths of one matrix multiplication's operands; 32: not quantized.
struct OperandBits {
  int weight = 32;
  int activation = 32;
  int gradient = 32;
};

// Bit operations by what they are for.
struct Bitops {
  double forward = 0.0;          // weight * activation bits
  double input_gradient = 0.0;   // weight * gradient bits: the error that goes on to the layer below
  double weight_gradient = 0.0;  // activation * gradient bits

  double total() const noexcept { return forward + input_gradient + weight_gradient; }
  Bitops& operator+=(const Bitops& other) noexcept;
};

// One layer in one step. A multiplication of two activations (attention) has the second one as its "weight".
struct LayerWork {
  double macs = 0.0;  // multiply-accumulates of the forward pass, over all tokens of the step
  OperandBits bits;
  bool input_gradient = true;   // false: nothing below needs an error
  bool weight_gradient = true;  // false: frozen
  bool at_full = true;          // false: a step at 32 bits does without it (an adapter)
};

Bitops layer_bitops(const LayerWork& work);

// A training step: all layers, forward and backward.
Bitops step_bitops(std::span<const LayerWork> layers);

// Cost of a forward and backward multiplication relative to 32 bits: (w*a + w*g + a*g) / (3 * 32^2).
double training_bitops_ratio(OperandBits bits);

// Cost of a forward multiplication relative to 32 bits: w*a / 32^2.
double forward_bitops_ratio(OperandBits bits);

// Running totals of a run. Its state is plain numbers, so that a checkpoint can carry it.
struct BitopsTotal {
  double spent = 0.0;    // bit operations of all steps so far
  double at_full = 0.0;  // what the same steps would have cost at 32 bits
  std::int64_t steps = 0;

  void add(std::span<const LayerWork> layers);
  // Spent, relative to 32 bits; 1 before the first step.
  double ratio() const noexcept { return at_full > 0.0 ? spent / at_full : 1.0; }
};

}  // namespace qat

#include "src/schedule/bitops.h"

namespace qat {

Bitops& Bitops::operator+=(const Bitops& other) noexcept {
  forward += other.forward;
  input_gradient += other.input_gradient;
  weight_gradient += other.weight_gradient;
  return *this;
}

Bitops layer_bitops(const LayerWork& work) {
  const double weight = work.bits.weight, activation = work.bits.activation, gradient = work.bits.gradient;
  Bitops cost;
  cost.forward = work.macs * weight * activation;
  if (work.input_gradient) cost.input_gradient = work.macs * weight * gradient;
  if (work.weight_gradient) cost.weight_gradient = work.macs * activation * gradient;
  return cost;
}

Bitops step_bitops(std::span<const LayerWork> layers) {
  Bitops sum;
  for (const LayerWork& work : layers) sum += layer_bitops(work);
  return sum;
}

double training_bitops_ratio(OperandBits bits) {
  const LayerWork one{1.0, bits};
  return layer_bitops(one).total() / layer_bitops({1.0, OperandBits{}}).total();
}

double forward_bitops_ratio(OperandBits bits) {
  return layer_bitops({1.0, bits}).forward / layer_bitops({1.0, OperandBits{}}).forward;
}

void BitopsTotal::add(std::span<const LayerWork> layers) {
  for (LayerWork work : layers) {
    spent += layer_bitops(work).total();
    if (!work.at_full) continue;
    work.bits = OperandBits{};
    at_full += layer_bitops(work).total();
  }
  ++steps;
}

}  // namespace qat

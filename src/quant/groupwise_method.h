// Scales and zero points of groups of a weight's inputs, trained with the parameters (EfficientQAT: Chen et al., 2024,
// arXiv:2407.11062).
#pragma once

#include <cstdint>

#include "src/quant/quant_method.h"

namespace qat {

// Codes 0..2^b - 1 of `group_size` neighbours in a row, which it divides; 0: of a whole row.
const QuantMethod& groupwise_method(std::int64_t group_size);

}  // namespace qat

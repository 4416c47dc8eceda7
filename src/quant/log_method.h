// Even steps of the magnitude's logarithm, and a sign.
#pragma once

#include "src/quant/quant_method.h"

namespace qat {

const QuantMethod& log_method(LogCodebook codebook);

}  // namespace qat

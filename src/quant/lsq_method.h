// Learned step size (Esser et al., 2020, arXiv:1902.08153): one step a tensor, trained with the parameters.
#pragma once

#include "src/quant/quant_method.h"

namespace qat {

const QuantMethod& lsq_method();  // codes -2^(b-1)..2^(b-1) - 1

}  // namespace qat

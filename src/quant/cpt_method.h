// Even steps from the smallest value up, of cyclic precision training (Fu et al., 2021, arXiv:2101.09868).
#pragma once

#include "src/quant/quant_method.h"

namespace qat {

const QuantMethod& cpt_method();  // codes 0..2^b - 1 from lo; zero has none of its own

}  // namespace qat

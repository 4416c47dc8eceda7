// Even steps over all 2^b codes of a signed integer, for ranges that are running means.
#pragma once

#include "src/quant/quant_method.h"

namespace qat {

const QuantMethod& ema_method();  // codes -2^(b-1)..2^(b-1) - 1

}  // namespace qat

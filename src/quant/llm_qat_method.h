// The quantizers of LLM-QAT (Liu et al., 2023, arXiv:2305.17888), weights of 1 and 2 bits included.
#pragma once

#include "src/quant/quant_method.h"

namespace qat {

// Symmetric: codes -q..q, q = 2^(b-1) - 1, of 3 bits and more; at 2 bits four values around the mean magnitude, at 1 a
// sign times it (weights only). Otherwise 2^b codes from lo to hi.
const QuantMethod& llm_qat_method(bool symmetric);

}  // namespace qat

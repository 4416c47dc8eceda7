// The CPU half of cached_attention.h. Shapes are checked by cached_attention.cc.
#pragma once

#include "kernels/attention/cached_attention.h"

namespace qat::kernels {

void cached_attention_cpu(const Exec& exec, ConstFloatMatrix q, const KeptTokens& kept, std::int64_t heads,
                          FloatMatrix y);

}  // namespace qat::kernels

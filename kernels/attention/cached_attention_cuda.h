// The CUDA half of cached_attention.h. Shapes are checked by cached_attention.cc.
//
// Bytes that must move: those of the kept tokens. 32 sequences of 300 tokens at 768 wide are 14.7 MB of codes, 5 us at
// 3.0 TB/s.
#pragma once

#include "kernels/attention/cached_attention.h"

namespace qat::kernels {

void cached_attention_cuda(const Exec& exec, ConstFloatMatrix q, const KeptTokens& kept, std::int64_t heads,
                           FloatMatrix y);

}  // namespace qat::kernels

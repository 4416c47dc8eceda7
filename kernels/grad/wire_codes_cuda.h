// The CUDA half of wire_codes.h: the same bits as the CPU's. Arguments are checked by wire_codes.cc.
#pragma once

#include "kernels/grad/wire_codes.h"

namespace qat::kernels {

void wire_amax_cuda(const Exec& exec, std::span<const float> x, std::span<const float> residual, const WireShape& shape,
                    std::span<float> amax);
void wire_encode_cuda(const Exec& exec, std::span<const float> x, std::span<const float> residual,
                      std::span<const float> amax, const WireShape& shape, const WireRounding& rounding,
                      std::span<std::uint8_t> messages, std::span<float> left);
void wire_sum_cuda(const Exec& exec, std::span<const std::uint8_t> messages, std::span<const float> amax,
                   const WireShape& shape, std::span<float> sum);
void sum_codes_cuda(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                    std::int64_t elems, std::span<std::uint8_t> sums, WireInteger sum_type);
void scale_codes_cuda(const Exec& exec, std::span<const std::uint8_t> codes, WireInteger type, std::int64_t parts,
                      std::span<const float> amax, const WireShape& shape, std::span<float> values);

}  // namespace qat::kernels

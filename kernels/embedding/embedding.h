// Token plus position embeddings, and their gradients in an order of addition that the tokens alone decide.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/common/exec.h"
#include "kernels/common/view.h"

namespace qat::kernels {

// x[i] = token_table[tokens[i]] + position_table[i % length].   tokens: [M], M a multiple of `length`, ids below the
// table's rows; tables: fp32 [V, d] and [>= length, d]; x: [M, d], dense (CPU: fp32; CUDA: fp32 or bf16).
void embed(const Exec& exec, std::span<const std::int64_t> tokens, std::int64_t length, Matrix<const float> token_table,
           Matrix<const float> position_table, FloatMatrix x);

// token_gradient[t] += sum of dx[i] over i with tokens[i] == t (i rising); rows of absent tokens are left alone.
// position_gradient[p] = sum of dx[i] over i with i % length == p (i rising); rows from `length` on become 0.
// Sums in fp32. Either gradient may be empty: not wanted.
void embed_backward(const Exec& exec, ConstFloatMatrix dx, std::span<const std::int64_t> tokens, std::int64_t length,
                    Matrix<float> token_gradient, Matrix<float> position_gradient);

}  // namespace qat::kernels

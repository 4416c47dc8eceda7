#include "kernels/embedding/embedding.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/embedding/embedding_cpu.h"
#include "kernels/embedding/embedding_cuda.h"

namespace qat::kernels {
namespace {

void check_tokens(std::span<const std::int64_t> tokens, std::int64_t sequence, const ConstFloatMatrix& x) {
  QAT_CHECK(length(tokens) == x.rows,
            std::to_string(tokens.size()) + " tokens for activations of " + shape_text(x.rows, x.cols));
  QAT_CHECK(sequence >= 1 && x.rows % sequence == 0,
            std::to_string(x.rows) + " tokens in sequences of " + std::to_string(sequence));
  QAT_CHECK(x.is_dense() || x.rows <= 1, "activations have gaps between their rows");
}

template <typename T>
void check_table(const Matrix<T>& table, std::int64_t rows, std::int64_t cols, const char* name) {
  QAT_CHECK(table.cols == cols && table.rows >= rows, std::string(name) + " is " + shape_text(table) +
                                                          " where at least " + shape_text(rows, cols) + " is needed");
}

}  // namespace

void embed(const Exec& exec, std::span<const std::int64_t> tokens, std::int64_t length, Matrix<const float> token_table,
           Matrix<const float> position_table, FloatMatrix x) {
  check_tokens(tokens, length, x);
  if (x.size() == 0) return;
  check_table(token_table, 1, x.cols, "the token table");
  check_table(position_table, length, x.cols, "the position table");
  dispatch(
      exec, "embed", [&] { embed_cpu(exec, tokens, length, token_table, position_table, x); },
      [&] { embed_cuda(exec, tokens, length, token_table, position_table, x); });
}

void embed_backward(const Exec& exec, ConstFloatMatrix dx, std::span<const std::int64_t> tokens, std::int64_t length,
                    Matrix<float> token_gradient, Matrix<float> position_gradient) {
  check_tokens(tokens, length, dx);
  if (!token_gradient.empty()) check_table(token_gradient, 1, dx.cols, "the token gradient");
  if (!position_gradient.empty()) check_table(position_gradient, length, dx.cols, "the position gradient");
  dispatch(
      exec, "embed_backward", [&] { embed_backward_cpu(exec, dx, tokens, length, token_gradient, position_gradient); },
      [&] { embed_backward_cuda(exec, dx, tokens, length, token_gradient, position_gradient); });
}

}  // namespace qat::kernels

#include "kernels/embedding/embedding_cpu.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "kernels/common/error.h"

namespace qat::kernels {
namespace {

constexpr std::int64_t kRowGrain = 16;
constexpr std::int64_t kColumnGrain = 64;

void check_ids(std::span<const std::int64_t> tokens, std::int64_t vocabulary) {
  for (const std::int64_t token : tokens)
    QAT_CHECK(token >= 0 && token < vocabulary,
              "token " + std::to_string(token) + " of a vocabulary of " + std::to_string(vocabulary));
}

void add_row(const float* from, std::int64_t n, float* to) {
  for (std::int64_t c = 0; c < n; ++c) to[c] += from[c];
}

}  // namespace

void embed_cpu(const Exec& exec, std::span<const std::int64_t> tokens, std::int64_t length,
               Matrix<const float> token_table, Matrix<const float> position_table, FloatMatrix x) {
  const Matrix<float> to = require_fp32(x);
  check_ids(tokens, token_table.rows);
  exec.for_ranges(to.rows, kRowGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const float* token = token_table.row(tokens[static_cast<std::size_t>(i)]);
      const float* position = position_table.row(i % length);
      for (std::int64_t c = 0; c < to.cols; ++c) to.at(i, c) = token[c] + position[c];
    }
  });
}

void embed_backward_cpu(const Exec& exec, ConstFloatMatrix dx_any, std::span<const std::int64_t> tokens,
                        std::int64_t length, Matrix<float> token_gradient, Matrix<float> position_gradient) {
  const Matrix<const float> dx = require_fp32(dx_any);
  if (!token_gradient.empty() && dx.rows > 0) {
    check_ids(tokens, token_gradient.rows);
    std::vector<std::int64_t> order(tokens.size());
    std::iota(order.begin(), order.end(), std::int64_t{0});
    const auto token_of = [&](std::int64_t i) { return tokens[static_cast<std::size_t>(i)]; };
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return token_of(a) < token_of(b); });
    // Columns apart: every sum is made by one range, whatever the cut.
    exec.for_ranges(dx.cols, kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t n = end - begin;
      std::vector<float> sum(static_cast<std::size_t>(n));
      for (std::size_t at = 0; at < order.size();) {
        const std::int64_t token = token_of(order[at]);
        std::fill(sum.begin(), sum.end(), 0.0F);
        for (; at < order.size() && token_of(order[at]) == token; ++at)
          add_row(dx.row(order[at]) + begin, n, sum.data());
        add_row(sum.data(), n, token_gradient.row(token) + begin);
      }
    });
  }
  exec.for_ranges(position_gradient.empty() ? 0 : position_gradient.rows, kRowGrain,
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t p = begin; p < end; ++p) {
                      float* to = position_gradient.row(p);
                      std::fill_n(to, position_gradient.cols, 0.0F);
                      if (p >= length) continue;
                      for (std::int64_t i = p; i < dx.rows; i += length) add_row(dx.row(i), dx.cols, to);
                    }
                  });
}

}  // namespace qat::kernels

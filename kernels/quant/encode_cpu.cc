#include "kernels/quant/encode_cpu.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "kernels/common/scratch.h"
#include "kernels/common/uniform_fill.h"
#include "kernels/quant/row_coder.h"
#include "kernels/quant/transpose_bytes.h"

namespace qat::kernels {
namespace {

// Rows are coded in blocks of kBlockRows, so that the transposed copy is written a cache line (64 codes) at a time, and
// in pieces of kTileCols, so that a tile of codes and the draws of one piece stay in the first-level cache.
constexpr std::int64_t kBlockRows = 64;
constexpr std::int64_t kTileCols = 256;
constexpr std::int64_t kGrainElems = 16384;   // below this a range costs more to hand over than to code
constexpr std::int64_t kColumnGrain = 64;     // columns of one range of the pass that finds column maxima
constexpr std::int64_t kColumnStripe = 1024;  // columns whose running maxima stay in the first-level cache

std::int64_t grain_rows(std::int64_t cols) {
  return std::max<std::int64_t>(1, kGrainElems / std::max<std::int64_t>(1, cols));
}

// Row r of the factored matrix, `n` elements from column c.
ScaledRow scaled_row(const EncodeJob& job, std::int64_t r, std::int64_t c, std::int64_t n) {
  const auto [row_factors, col_factors] = job.factors;
  return {job.x.row(r) + c, n, row_factors.empty() ? 1.0F : row_factors[static_cast<std::size_t>(r)],
          col_factors.empty() ? nullptr : col_factors.data() + c};
}

// Codes blocks of rows; owns the working memory of one range.
class BlockCoder {
 public:
  BlockCoder(const EncodeJob& job, CpuIsa isa) : job_(job), isa_(isa), tile_(kBlockRows * kTileCols) {}

  // Rows [begin, begin + rows), rows <= kBlockRows. inverses: one per row of the block, or one per column of x.
  void code(std::int64_t begin, std::int64_t rows, const float* inverses, bool per_column) {
    const std::int64_t cols = job_.x.cols;
    const bool stochastic = job_.options.rounding == Rounding::kStochastic;
    const bool plain = !job_.out.codes.empty(), transposed = !job_.out.codes_transposed.empty();
    CodeRule rule{nullptr, per_column, stochastic ? uniform_.data() : nullptr,
                  static_cast<float>(job_.options.width.q_max())};
    for (std::int64_t c = 0; c < cols; c += kTileCols) {
      const std::int64_t n = std::min(kTileCols, cols - c);
      for (std::int64_t i = 0; i < rows; ++i) {
        const std::int64_t r = begin + i;
        if (stochastic)
          fill_rounding_uniform(job_.options.key, static_cast<std::uint64_t>(r * cols + c),
                                std::span(uniform_).first(static_cast<std::size_t>(n)), isa_);
        rule.inverse = inverses + (per_column ? c : i);
        std::int8_t* codes = transposed ? tile_.get() + i * kTileCols : job_.out.codes.row(r) + c;
        code_row(scaled_row(job_, r, c, n), rule, codes, isa_);
        if (transposed && plain) std::memcpy(job_.out.codes.row(r) + c, codes, static_cast<std::size_t>(n));
      }
      if (transposed)
        transpose_bytes(tile_.get(), kTileCols, rows, n, job_.out.codes_transposed.row(c) + begin, job_.x.rows);
    }
  }

 private:
  const EncodeJob& job_;
  const CpuIsa isa_;
  Scratch<std::int8_t> tile_;  // [kBlockRows, kTileCols]
  std::array<float, kTileCols> uniform_;
};

// Runs body(coder, begin, rows) over blocks of rows.
template <typename Body>
void for_row_blocks(const Exec& exec, const EncodeJob& job, CpuIsa isa, const Body& body) {
  exec.for_ranges(job.x.rows, grain_rows(job.x.cols), [&](std::int64_t begin, std::int64_t end) {
    BlockCoder coder(job, isa);
    for (std::int64_t r = begin; r < end; r += kBlockRows) body(coder, r, std::min(kBlockRows, end - r));
  });
}

}  // namespace

void encode_rows_cpu(const Exec& exec, const EncodeJob& job, std::span<float> scales, CpuIsa isa) {
  const float q_max = static_cast<float>(job.options.width.q_max());
  for_row_blocks(exec, job, isa, [&](BlockCoder& coder, std::int64_t begin, std::int64_t rows) {
    std::array<float, kBlockRows> inverses;
    for (std::int64_t i = 0; i < rows; ++i) {
      const std::int32_t bits = abs_max_bits(scaled_row(job, begin + i, 0, job.x.cols), isa);
      const float scale = scale_of_abs_max(bits, job.options.amax_floor, q_max);
      scales[static_cast<std::size_t>(begin + i)] = scale;
      inverses[static_cast<std::size_t>(i)] = 1.0F / scale;
    }
    coder.code(begin, rows, inverses.data(), /*per_column=*/false);
  });
}

void encode_cols_cpu(const Exec& exec, const EncodeJob& job, std::span<float> scales, CpuIsa isa) {
  const auto [x, factors, options, out] = job;
  const float q_max = static_cast<float>(options.width.q_max());
  std::vector<float> inverses(static_cast<std::size_t>(x.cols));
  // Every column is finished by one range: nothing is merged, so the cut cannot matter.
  exec.for_ranges(x.cols, kColumnGrain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; c += kColumnStripe) {
      const std::int64_t n = std::min(kColumnStripe, end - c);
      std::array<std::int32_t, kColumnStripe> max_bits{};
      for (std::int64_t r = 0; r < x.rows; ++r) raise_abs_max_bits(scaled_row(job, r, c, n), max_bits.data(), isa);
      for (std::int64_t i = 0; i < n; ++i) {
        const float scale = scale_of_abs_max(max_bits[static_cast<std::size_t>(i)], options.amax_floor, q_max);
        scales[static_cast<std::size_t>(c + i)] = scale;
        inverses[static_cast<std::size_t>(c + i)] = 1.0F / scale;
      }
    }
  });
  for_row_blocks(exec, job, isa, [&](BlockCoder& coder, std::int64_t begin, std::int64_t rows) {
    coder.code(begin, rows, inverses.data(), /*per_column=*/true);
  });
}

void encode_with_scales_cpu(const Exec& exec, const EncodeJob& job, std::span<const float> scales, CpuIsa isa) {
  for_row_blocks(exec, job, isa, [&](BlockCoder& coder, std::int64_t begin, std::int64_t rows) {
    std::array<float, kBlockRows> inverses;
    for (std::int64_t i = 0; i < rows; ++i)
      inverses[static_cast<std::size_t>(i)] =
          1.0F / scales[scales.size() == 1 ? 0 : static_cast<std::size_t>(begin + i)];
    coder.code(begin, rows, inverses.data(), /*per_column=*/false);
  });
}

namespace {

QAT_ALWAYS_INLINE void decode_body(const std::int8_t* codes, std::int64_t n, float scale, float* x) {
  const std::int8_t* __restrict from = codes;
  float* __restrict to = x;
  for (std::int64_t i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]) * scale;
}

}  // namespace

void decode_rows_cpu(const Exec& exec, Matrix<const std::int8_t> codes, std::span<const float> scales, Matrix<float> x,
                     CpuIsa isa) {
  const auto body = IsaClones<decode_body>::pick(isa);
  exec.for_ranges(codes.rows, grain_rows(codes.cols), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r)
      body(codes.row(r), codes.cols, scales[scales.size() == 1 ? 0 : static_cast<std::size_t>(r)], x.row(r));
  });
}

}  // namespace qat::kernels

#include "kernels/quant/encode.h"

#include <string>

#include "kernels/common/dispatch.h"
#include "kernels/common/shape_text.h"
#include "kernels/quant/encode_cpu.h"

namespace qat::kernels {
namespace {

void check_job(const EncodeJob& job) {
  const auto& [x, factors, options, out] = job;
  QAT_CHECK(!options.width.is_full() && options.width.bits() <= 8,
            "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(options.amax_floor > 0.0F, "a scale must be positive, so the floor of its range must be");
  QAT_CHECK(x.size() == 0 || !out.codes.empty() || !out.codes_transposed.empty(), "encode has nowhere to write codes");
  QAT_CHECK(out.codes.empty() || (out.codes.rows == x.rows && out.codes.cols == x.cols),
            "codes are " + shape_text(out.codes) + " for x of " + shape_text(x));
  QAT_CHECK(
      out.codes_transposed.empty() || (out.codes_transposed.rows == x.cols && out.codes_transposed.cols == x.rows),
      "transposed codes are " + shape_text(out.codes_transposed) + " for x of " + shape_text(x));
  QAT_CHECK(factors.row_factors.empty() || length(factors.row_factors) == x.rows,
            std::to_string(factors.row_factors.size()) + " row factors for x of " + shape_text(x));
  QAT_CHECK(factors.col_factors.empty() || length(factors.col_factors) == x.cols,
            std::to_string(factors.col_factors.size()) + " column factors for x of " + shape_text(x));
}

void check_row_scales(std::span<const float> scales, std::int64_t rows) {
  QAT_CHECK(length(scales) == 1 || length(scales) == rows,
            std::to_string(scales.size()) + " scales for " + std::to_string(rows) + " rows (1 or one a row)");
}

}  // namespace

void encode_rows(const Exec& exec, Matrix<const float> x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales) {
  encode_scaled_rows(exec, x, Factors{}, options, out, scales);
}

void encode_cols(const Exec& exec, Matrix<const float> x, const EncodeOptions& options, const CodesOut& out,
                 std::span<float> scales) {
  encode_scaled_cols(exec, x, Factors{}, options, out, scales);
}

void encode_with_scales(const Exec& exec, Matrix<const float> x, std::span<const float> scales,
                        const EncodeOptions& options, const CodesOut& out) {
  const EncodeJob job{x, Factors{}, options, out};
  check_job(job);
  check_row_scales(scales, x.rows);
  dispatch(exec, "encode_with_scales", [&] { encode_with_scales_cpu(exec, job, scales, best_cpu_isa()); });
}

void decode_rows(const Exec& exec, Matrix<const std::int8_t> codes, std::span<const float> scales, Matrix<float> x) {
  QAT_CHECK(x.rows == codes.rows && x.cols == codes.cols,
            "x is " + shape_text(x) + " for codes of " + shape_text(codes));
  check_row_scales(scales, codes.rows);
  dispatch(exec, "decode_rows", [&] { decode_rows_cpu(exec, codes, scales, x, best_cpu_isa()); });
}

void encode_scaled_rows(const Exec& exec, Matrix<const float> x, const Factors& factors, const EncodeOptions& options,
                        const CodesOut& out, std::span<float> scales) {
  const EncodeJob job{x, factors, options, out};
  check_job(job);
  QAT_CHECK(length(scales) == x.rows, std::to_string(scales.size()) + " row scales for x of " + shape_text(x));
  dispatch(exec, "encode_rows", [&] { encode_rows_cpu(exec, job, scales, best_cpu_isa()); });
}

void encode_scaled_cols(const Exec& exec, Matrix<const float> x, const Factors& factors, const EncodeOptions& options,
                        const CodesOut& out, std::span<float> scales) {
  const EncodeJob job{x, factors, options, out};
  check_job(job);
  QAT_CHECK(length(scales) == x.cols, std::to_string(scales.size()) + " column scales for x of " + shape_text(x));
  dispatch(exec, "encode_cols", [&] { encode_cols_cpu(exec, job, scales, best_cpu_isa()); });
}

}  // namespace qat::kernels

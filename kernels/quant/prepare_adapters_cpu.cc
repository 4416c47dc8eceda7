#include "kernels/quant/prepare_adapters_cpu.h"

#include <vector>

namespace qat::kernels {
namespace {

void prepare_a(const Exec& exec, const AdapterJob& job) {
  encode_rows(exec, job.a, job.options, {job.a_codes, {}}, job.a_scales);
  const Matrix<float> values = require_fp32(job.a_values);
  for (std::int64_t k = 0; k < values.rows; ++k)
    for (std::int64_t j = 0; j < values.cols; ++j) values.at(k, j) = static_cast<float>(job.a_codes.at(j, k));
}

void prepare_b(const Exec& exec, const AdapterJob& job) {
  std::vector<std::int8_t> codes(static_cast<std::size_t>(job.b.size()));
  std::vector<float> scales(static_cast<std::size_t>(job.b.rows)), over_scales(scales.size());
  const Matrix<std::int8_t> coded{codes.data(), job.b.rows, job.b.cols};
  encode_rows(exec, job.b, job.options, {coded, {}}, scales);
  for (std::size_t n = 0; n < scales.size(); ++n) {
    scales[n] *= job.scaling;
    over_scales[n] = scales[n] / job.weight_scales[n];
  }
  decode_rows(exec, coded, scales, job.b_values);
  decode_rows(exec, coded, over_scales, job.b_over_scales);
}

}  // namespace

void prepare_adapters_cpu(const Exec& exec, std::span<const AdapterJob> jobs) {
  for (const AdapterJob& job : jobs) {
    prepare_a(exec, job);
    prepare_b(exec, job);
  }
}

}  // namespace qat::kernels

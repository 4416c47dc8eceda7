#include "kernels/quant/round_rows.h"

#include <string>
#include <vector>

#include "kernels/common/dispatch.h"
#include "kernels/quant/round_rows_cuda.h"

namespace qat::kernels {
namespace {

void round_rows_cpu(const Exec& exec, Matrix<float> x, const EncodeOptions& options) {
  std::vector<std::int8_t> codes(static_cast<std::size_t>(x.size()));
  std::vector<float> scales(static_cast<std::size_t>(x.rows));
  const Matrix<std::int8_t> coded{codes.data(), x.rows, x.cols};
  encode_rows(exec, x, options, {coded, {}}, scales);
  decode_rows(exec, coded, scales, x);
}

}  // namespace

void round_rows(const Exec& exec, Matrix<float> x, const EncodeOptions& options) {
  if (options.width.is_full() || x.size() == 0) return;
  QAT_CHECK(options.width.bits() <= 8, "int8 codes hold widths 2..8, not " + std::to_string(options.width.bits()));
  QAT_CHECK(options.amax_floor >= kGradientAmaxFloor, "the floor of a range is too small to have a reciprocal");
  dispatch(
      exec, "round_rows", [&] { round_rows_cpu(exec, x, options); }, [&] { round_rows_cuda(exec, x, options); });
}

}  // namespace qat::kernels

#include "kernels/common/view.h"

#include "kernels/common/error.h"

namespace qat {

Matrix<const float> require_fp32(const ConstFloatMatrix& m) {
  QAT_CHECK(m.dtype == DType::kFloat32 && (m.is_dense() || m.rows <= 1), "CPU kernels take dense fp32 matrices");
  return {static_cast<const float*>(m.data), m.rows, m.cols};
}

Matrix<float> require_fp32(const FloatMatrix& m) {
  QAT_CHECK(m.dtype == DType::kFloat32 && (m.is_dense() || m.rows <= 1), "CPU kernels take dense fp32 matrices");
  return {static_cast<float*>(m.data), m.rows, m.cols};
}

}  // namespace qat

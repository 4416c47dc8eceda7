#include "src/quant/linear_operand.h"

#include <ATen/ATen.h>

#include "kernels/common/error.h"

namespace qat {

at::Tensor values_of(const LinearOperand& operand, at::ScalarType dtype) {
  if (operand.values.defined()) return operand.values.to(dtype);
  if (operand.is_wide()) return decode(operand.wide, dtype);
  QAT_CHECK(operand.codes.codes.defined(), "values come from codes by rows");
  return decode(operand.codes.codes, operand.codes.scales, dtype);
}

}  // namespace qat

#include "src/quant/quant_method.h"

#include <ATen/ATen.h>

#include "kernels/common/error.h"
#include "src/quant/log_method.h"
#include "src/quant/minmax_method.h"
#include "src/quant/torch_view.h"

namespace qat {

const QuantMethod& quant_method(const QuantizerConfig& config, BitWidth width) {
  switch (config.method_at(width.bits())) {
    case QuantizerKind::kMinMax:
      return config.symmetric ? symmetric_method() : affine_method();
    case QuantizerKind::kLog:
      return log_method(config.log_codebook);
  }
  QAT_CHECK(false, "a kind of quantizer without its method");
  return symmetric_method();
}

at::Tensor empty_groups(const at::Tensor& x, kernels::Axis axis) {
  return at::empty({kernels::groups_of(const_matrix(x), axis)}, x.options().dtype(at::kFloat));
}

}  // namespace qat

// The CUDA half of adapter_backward.h. Internal to kernels/gemm.
#pragma once

#include "kernels/gemm/adapter_backward.h"

namespace qat::kernels {

bool takes_adapter_backward_cuda(const GradientColumns& g, std::int64_t rank);
void adapter_backward_cuda(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                           const AdapterBackwardOptions& options, const AdapterGradients& out,
                           const AdapterColumns& columns);

// How g is cut: a block reads one strip of rows of one group of columns. Sums over the strips (of db) and over the
// groups (of dh) are left to a second kernel. Decided by the shapes alone, never by the device.
struct AdapterCut {
  std::int64_t strips = 0;
  std::int64_t groups = 0;
};
AdapterCut adapter_cut(const GradientColumns& g, std::int64_t rank);

// The two products of one read of g (adapter_backward_sm90.cu), not yet summed; db lacks its scaling. The same read
// makes the column codes, if they are wanted and takes_adapter_columns().
struct AdapterPartials {
  float* dh = nullptr;  // [groups, M, r]
  float* db = nullptr;  // [strips, N, r]
};
void adapter_products_sm90(const Exec& exec, const GradientColumns& g, const AdapterBackwardOperands& operands,
                           const AdapterColumns& columns, const AdapterCut& cut, const AdapterPartials& partials);
bool takes_adapter_columns(const GradientColumns& g, std::int64_t rank, const Matrix<std::int8_t>& codes_transposed);

}  // namespace qat::kernels

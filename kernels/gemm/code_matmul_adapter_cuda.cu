// code_matmul_adapter.h on a GPU: the one kernel there is for it (code_matmul_sm90_adapter.cuh), and what it takes.
#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"
#include "kernels/common/multiprocessors.h"
#include "kernels/gemm/code_matmul_adapter_cuda.h"

namespace qat::kernels {

bool takes_adapter_cuda(std::int64_t n, std::int64_t k, std::int64_t rank, DType out) {
  int device = 0, major = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  QAT_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
  return major == 9 && out == DType::kBFloat16 && k % 16 == 0 && k > 0 && n % 8 == 0 && rank % 8 == 0 && rank > 0 &&
         rank <= kMaxAdapterRank;
}

void code_matmul_adapter_cuda(const Exec& exec, Matrix<const std::int8_t> a, Matrix<const std::int8_t> b,
                              const CodeMatmulEpilogue& epilogue, const AdapterTerm& adapter, const FloatMatrix& y) {
  QAT_CHECK(takes_adapter_cuda(b.rows, a.cols, adapter.h.cols, y.dtype), "callers ask takes_adapter() first");
  QAT_CHECK(adapter.h.dtype == DType::kBFloat16 && adapter.t.dtype == DType::kBFloat16 && adapter.h.is_dense() &&
                adapter.t.is_dense(),
            "the adapter's operands are dense bf16");
  if (y.size() == 0) return;
  const Sm90Call call{.a = a.data,
                      .b = b.data,
                      .m = a.rows,
                      .n = b.rows,
                      .k = a.cols,
                      .row_scales = epilogue.row_scales.data(),
                      .col_scales = epilogue.col_scales.data(),
                      .per_row = epilogue.row_scales.size() > 1,
                      .per_col = epilogue.col_scales.size() > 1,
                      .bias = epilogue.bias.empty() ? nullptr : epilogue.bias.data(),
                      .y = y.data,
                      .stride = y.stride,
                      .sm_count = multiprocessors()};
  matmul_adapter_sm90(exec, call, adapter.h.data, adapter.t.data, static_cast<int>(adapter.h.cols));
}

}  // namespace qat::kernels

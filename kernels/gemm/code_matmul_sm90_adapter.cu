// See code_matmul_sm90_adapter.cuh: y = (row_scale col_scale) (sum of codes + h b^T) + bias, one pass over y.
#include "kernels/gemm/code_matmul_adapter_cuda.h"
#include "kernels/gemm/code_matmul_sm90_adapter.cuh"

namespace qat::kernels {
namespace {

using Tile = sm90::TileOf<128, 128>;
using Out = cutlass::bfloat16_t;
using Fusion = sm90::Epilogue<Tile, Out, sm90::FloatSums>;
using CollectiveEpilogue = cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, sm90::PairOfRows,
    cutlass::epilogue::collective::EpilogueTileAuto, std::int32_t, float, void, cutlass::layout::RowMajor, 8, Out,
    cutlass::layout::RowMajor, 8, sm90::Pingpong::Epilogue, Fusion::Type>::CollectiveOp;
using Codes = cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, std::int8_t, cutlass::layout::RowMajor, 16, std::int8_t,
    cutlass::layout::ColumnMajor, 16, std::int32_t, Tile, sm90::PairOfRows,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(CollectiveEpilogue::SharedStorage))>,
    sm90::Pingpong::Mainloop>::CollectiveOp;
using Mainloop = sm90::AdapterMainloop<Codes>;
using Kernel = cutlass::gemm::kernel::GemmUniversal<cute::Shape<int, int, int, int>, Mainloop, CollectiveEpilogue,
                                                    cutlass::gemm::PersistentScheduler>;
using Device = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

}  // namespace

void matmul_adapter_sm90(const Exec& exec, const Sm90Call& call, const void* h, const void* b, int rank) {
  Kernel::StrideA a_stride{};
  Kernel::StrideB b_stride{};
  Kernel::StrideC c_stride{};
  Kernel::StrideD y_stride{};
  cute::get<0>(a_stride) = call.k;
  cute::get<0>(b_stride) = call.k;
  cute::get<0>(c_stride) = call.stride;
  cute::get<0>(y_stride) = call.stride;
  Mainloop::Arguments mainloop{};
  mainloop.ptr_A = call.a;
  mainloop.dA = a_stride;
  mainloop.ptr_B = call.b;
  mainloop.dB = b_stride;
  mainloop.h = static_cast<const cutlass::bfloat16_t*>(h);
  mainloop.b = static_cast<const cutlass::bfloat16_t*>(b);
  mainloop.rank = rank;
  Device::Arguments args{cutlass::gemm::GemmUniversalMode::kGemm,
                         {static_cast<int>(call.m), static_cast<int>(call.n), static_cast<int>(call.k), 1},
                         mainloop,
                         {Fusion::arguments(call), nullptr, c_stride, static_cast<Out*>(call.y), y_stride}};
  args.hw_info.sm_count = call.sm_count;
  QAT_CHECK(Device::can_implement(args) == cutlass::Status::kSuccess, "a shape that takes_adapter() refuses");
  const DeviceScratch<std::uint8_t> workspace(exec, static_cast<std::int64_t>(Device::get_workspace_size(args)));
  Device gemm;
  cutlass::Status status = gemm.initialize(args, workspace.get(), cuda_stream(exec));
  if (status == cutlass::Status::kSuccess) status = gemm.run(cuda_stream(exec));
  QAT_CUDA_CHECK(cudaGetLastError());
  QAT_CHECK(status == cutlass::Status::kSuccess, cutlassGetStatusString(status));
}

}  // namespace qat::kernels

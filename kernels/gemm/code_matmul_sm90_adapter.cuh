// A CUTLASS mainloop that goes on in bf16 where the int8 sums end: one more K tile holds an adapter's operands, and its
// products are added to the sums in registers, converted to fp32. The layer's output is never read back.
//
//   y[m,n] = (row_scales[m] col_scales[n]) (float(sum_k a[m,k] b[n,k]) + sum_j h[m,j] t[n,j]) (+ bias[n])
//
// a: [M, K], b: [N, K] in int8; h: [M, r], t: [N, r] (here called b too) in bf16, r a multiple of 8 up to 64, which is
// what one K tile of 128 bytes holds; y: [M, N] in bf16.
#pragma once

#include "kernels/gemm/code_matmul_sm90.cuh"

namespace qat::kernels::sm90 {

// Base: a TMA, warp-specialized int8 collective with K-major operands and 128 bytes of K a tile. Its last K tile is
// loaded from other tensors: h [M, r] and b [N, r] in bf16, which lie in shared memory exactly as 128 int8 codes would
// (rows of 128 bytes, swizzled); TMA fills what lies beyond r with zeros.
template <class Base>
struct AdapterMainloop : Base {
  using typename Base::DispatchPolicy;
  using typename Base::MainloopPipeline;
  using typename Base::PipelineState;
  using typename Base::SmemLayoutA;
  using typename Base::SmemLayoutB;
  using typename Base::TensorStorage;
  using typename Base::TiledMma;
  using typename Base::TileShape;
  static constexpr int kTileBytes = cute::size<2>(TileShape{});
  static constexpr int kTileM = cute::size<0>(TileShape{}), kTileN = cute::size<1>(TileShape{});
  static constexpr int kStages = DispatchPolicy::Stages;
  static_assert(kTileBytes == 128, "one swizzled row of 128 bytes");
  static_assert(cute::size(TiledMma{}) == cutlass::NumThreadsPerWarpGroup, "a tile belongs to one warp group");

  struct Arguments : Base::Arguments {
    const cutlass::bfloat16_t* h = nullptr;
    const cutlass::bfloat16_t* b = nullptr;
    int rank = 0;
  };
  struct Params : Base::Params {
    typename Base::Params::TMA_A tma_h;
    typename Base::Params::TMA_B tma_b;
    int rank;
  };

  template <class ProblemShape>
  static constexpr Params to_underlying_arguments(const ProblemShape& shape, const Arguments& args, void* workspace) {
    using cute::get;
    const int m = get<0>(shape), n = get<1>(shape), bytes = 2 * args.rank;
    const auto of = [&](const cutlass::bfloat16_t* values, int rows) {
      return cute::make_tensor(
          reinterpret_cast<const typename Base::InternalElementA*>(values),
          cute::make_layout(cute::make_shape(rows, bytes, 1),
                            cute::make_stride(static_cast<std::int64_t>(bytes), _1{}, std::int64_t{0})));
    };
    const auto slot = [](auto layout) { return layout(cute::_, cute::_, _0{}); };
    return {Base::to_underlying_arguments(shape, args, workspace),
            cute::make_tma_copy_A_sm90(typename Base::GmemTiledCopyA{}, of(args.h, m), slot(SmemLayoutA{}), TileShape{},
                                       typename DispatchPolicy::ClusterShape{}),
            cute::make_tma_copy_B_sm90(typename Base::GmemTiledCopyB{}, of(args.b, n), slot(SmemLayoutB{}), TileShape{},
                                       typename DispatchPolicy::ClusterShape{}),
            args.rank};
  }

  CUTLASS_DEVICE static void prefetch_tma_descriptors(const Params& params) {
    Base::prefetch_tma_descriptors(params);
    cute::prefetch_tma_descriptor(params.tma_h.get_tma_descriptor());
    cute::prefetch_tma_descriptor(params.tma_b.get_tma_descriptor());
  }

  // One K tile more than the codes have.
  template <class Shape>
  CUTLASS_DEVICE auto load_init(const Shape& shape, const Params& params) const {
    const auto [m, n, k, l] = shape;
    const int tiles = (k + kTileBytes - 1) / kTileBytes + 1;
    return Base::load_init(cute::make_shape(m, n, tiles * kTileBytes, l), params);
  }

  // Base's load, with other descriptors for the last tile. Coordinates are (k, row): those of tile 0 serve the
  // adapter's.
  template <class TensorA, class TensorB, class KTiles, class Block>
  CUTLASS_DEVICE void load(const Params& params, MainloopPipeline pipeline, PipelineState write,
                           const cute::tuple<TensorA, TensorB>& inputs, const Block& block, KTiles k_tile, int k_tiles,
                           int thread, std::uint32_t rank_in_cluster, TensorStorage& shared) {
    using namespace cute;
    Base::load(params, pipeline, write, inputs, block, k_tile, k_tiles - 1, thread, rank_in_cluster, shared);
    write.advance(k_tiles - 1);
    if (!elect_one_sync()) return;
    Tensor sA = make_tensor(make_smem_ptr(shared.smem_A.data()), SmemLayoutA{});
    Tensor sB = make_tensor(make_smem_ptr(shared.smem_B.data()), SmemLayoutB{});
    constexpr std::uint32_t kClusterRows = get<0>(typename DispatchPolicy::ClusterShape());
    const uint2 place = {rank_in_cluster % kClusterRows, rank_in_cluster / kClusterRows};
    auto tma_h = params.tma_h.get_slice(place.y);
    auto tma_b = params.tma_b.get_slice(place.x);
    const auto [m, n, k, l] = block;
    Tensor from_h = tma_h.partition_S(get<0>(inputs)(_, _, m, _, l));
    Tensor from_b = tma_b.partition_S(get<1>(inputs)(_, _, n, _, l));
    Tensor to_h = tma_h.partition_D(sA);
    Tensor to_b = tma_b.partition_D(sB);
    std::uint16_t mask_h = 0, mask_b = 0;
    const auto blocks = Layout<typename DispatchPolicy::ClusterShape>{};
    if constexpr (is_same_v<typename Base::GmemTiledCopyA, SM90_TMA_LOAD_MULTICAST>)
      for (int i = 0; i < size<1>(blocks); ++i) mask_h |= std::uint16_t(1) << blocks(place.x, i, Int<0>{});
    if constexpr (is_same_v<typename Base::GmemTiledCopyB, SM90_TMA_LOAD_MULTICAST>)
      for (int i = 0; i < size<0>(blocks); ++i) mask_b |= std::uint16_t(1) << blocks(i, place.y, Int<0>{});
    pipeline.producer_acquire(write);
    auto* barrier = pipeline.producer_get_barrier(write);
    copy(params.tma_h.with(*barrier, mask_h), from_h(_, _, _, 0), to_h(_, _, _, write.index()));
    copy(params.tma_b.with(*barrier, mask_b), from_b(_, _, _, 0), to_b(_, _, _, write.index()));
  }

  // Leaves fp32 numbers in the (int32) accumulators: see FloatSums. Base::mma_tail releases the last stage.
  template <class Sums>
  CUTLASS_DEVICE void mma(MainloopPipeline pipeline, PipelineState read, Sums& sums, int k_tiles, int thread,
                          TensorStorage& shared, const Params& params) {
    using namespace cute;
    Base::mma(pipeline, read, sums, k_tiles - 1, thread, shared, params);
    warpgroup_wait<0>();
    warpgroup_fence_operand(sums);
    PipelineState last_codes = read;
    last_codes.advance(k_tiles - 2);
    pipeline.consumer_release(last_codes);
    read.advance(k_tiles - 1);

    Tensor values = recast<float>(sums);
    CUTE_UNROLL
    for (int i = 0; i < size(sums); ++i) values(i) = __int2float_rn(sums(i));

    using Bf16 = cutlass::bfloat16_t;
    using Row = GMMA::Layout_K_SW128_Atom<Bf16>;
    using Columns = Int<kTileBytes / 2>;
    const auto layout_h =
        tile_to_shape(Row{}, make_shape(Int<kTileM>{}, Columns{}, Int<kStages>{}), Step<_1, _2, _3>{});
    const auto layout_b =
        tile_to_shape(Row{}, make_shape(Int<kTileN>{}, Columns{}, Int<kStages>{}), Step<_1, _2, _3>{});
    Tensor sH = make_tensor(make_smem_ptr(reinterpret_cast<Bf16*>(shared.smem_A.data())), layout_h);
    Tensor sB = make_tensor(make_smem_ptr(reinterpret_cast<Bf16*>(shared.smem_B.data())), layout_b);
    using Atom = SM90::GMMA::MMA_64x128x16_F32BF16BF16_SS<GMMA::Major::K, GMMA::Major::K>;
    static_assert(kTileN == 128, "the instruction's width");
    auto tiled = make_tiled_mma(Atom{});
    auto group = tiled.get_slice(0);
    Tensor h = group.make_fragment_A(group.partition_A(sH));
    Tensor b = group.make_fragment_B(group.partition_B(sB));
    tiled.accumulate_ = GMMA::ScaleOut::One;

    pipeline.consumer_wait(read, pipeline.consumer_try_wait(read));
    const int stage = read.index();
    warpgroup_fence_operand(values);
    warpgroup_arrive();
    CUTE_UNROLL
    for (int block = 0; block < size<2>(h); ++block)
      if (16 * block < params.rank) cute::gemm(tiled, h(_, _, block, stage), b(_, _, block, stage), values);
    warpgroup_commit_batch();
    warpgroup_wait<0>();
    warpgroup_fence_operand(values);
  }
};

// The accumulators as the fp32 numbers that AdapterMainloop leaves in them.
struct FloatSums : cutlass::epilogue::fusion::Sm90VisitorImpl<> {
  using cutlass::epilogue::fusion::Sm90VisitorImpl<>::Sm90VisitorImpl;
  struct ConsumerStoreCallbacks : cutlass::epilogue::fusion::EmptyConsumerStoreCallbacks {
    template <class Sum, int kCount>
    CUTLASS_DEVICE cutlass::Array<float, kCount> visit(const cutlass::Array<Sum, kCount>& sums, int, int, int) {
      static_assert(sizeof(Sum) == sizeof(float));
      cutlass::Array<float, kCount> values;
      CUTLASS_PRAGMA_UNROLL
      for (int i = 0; i < kCount; ++i) values[i] = __int_as_float(sums[i]);
      return values;
    }
  };
  template <bool kReferenceSource, class... Args>
  CUTLASS_DEVICE auto get_consumer_store_callbacks(const cutlass::epilogue::fusion::ConsumerStoreArgs<Args...>&) {
    return ConsumerStoreCallbacks{};
  }
};

}  // namespace qat::kernels::sm90

// See code_matmul_sm90.cuh. Weight gradients of a further micro-batch.
#include "kernels/gemm/code_matmul_sm90.cuh"

namespace qat::kernels {
namespace {

template <class Tile, class Cluster, class Schedule>
using Gemm = sm90::Gemm<float, /*kAdd=*/true, Tile, Cluster, Schedule>;

using Wide = Gemm<sm90::TileOf<128, 256>, sm90::PairOfRows, sm90::CooperativeStreamK>;
using Square = Gemm<sm90::TileOf<128, 128>, sm90::Alone, sm90::CooperativeStreamK>;

constexpr Sm90Tile kTiles[] = {{"128x256 stream-K", Wide::cut},
                               {"128x256", Wide::whole},
                               {"128x128 stream-K", Square::cut},
                               {"128x128", Square::whole}};

}  // namespace

std::span<const Sm90Tile> sm90_tiles_fp32_add() { return kTiles; }

}  // namespace qat::kernels

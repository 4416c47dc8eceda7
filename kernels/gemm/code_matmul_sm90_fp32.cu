// See code_matmul_sm90.cuh. Weight gradients: few tiles, sums over all tokens of a micro-batch. Wider
// tiles were slower at every shape of GPT-2, and there are too few of them to go round.
#include "kernels/gemm/code_matmul_sm90.cuh"

namespace qat::kernels {
namespace {

template <class Tile, class Cluster, class Schedule>
using Gemm = sm90::Gemm<float, Tile, Cluster, Schedule>;

using Square = Gemm<sm90::TileOf<128, 128>, sm90::Alone, sm90::CooperativeStreamK>;

constexpr Sm90Tile kTiles[] = {{"128x128 stream-K", Square::cut}, {"128x128", Square::whole}};

}  // namespace

std::span<const Sm90Tile> sm90_tiles_fp32() { return kTiles; }

}  // namespace qat::kernels

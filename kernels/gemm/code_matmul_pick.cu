// Which CUTLASS tile serves a shape: each is timed at the first call of a shape of its size (tuned_size), and the
// fastest is kept.
#include <algorithm>
#include <compare>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "kernels/common/cuda_check.h"
#include "kernels/common/error.h"
#include "kernels/common/multiprocessors.h"
#include "kernels/gemm/code_matmul_cuda.h"
#include "kernels/gemm/code_matmul_sm90.h"

namespace qat::kernels {
namespace {

constexpr int kTimedRuns = 3;  // after one that is not timed

struct ShapeKey {
  int device;
  DType out;
  std::int64_t m, n, k;
  auto operator<=>(const ShapeKey& other) const = default;
};

struct Picks {
  std::mutex mutex;
  std::map<ShapeKey, int> tiles;
};

Picks& picks() {
  static Picks shared;
  return shared;
}

std::span<const Sm90Tile> tiles_for(DType out) {
  return out == DType::kBFloat16 ? sm90_tiles_bf16() : sm90_tiles_fp32();
}

ShapeKey key_of(int device, const MatmulProblem& p) {
  return {device, p.out, tuned_size(p.m), tuned_size(p.n), tuned_size(p.k)};
}

int current_device() {
  int device = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

class Event {
 public:
  Event() { QAT_CUDA_CHECK(cudaEventCreate(&event_)); }
  ~Event() { (void)cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

Sm90Call sm90_call(const CudaMatmul& call) {
  const CodeMatmulEpilogue& e = call.epilogue;
  return {.a = call.a.data,
          .b = call.b.data,
          .m = call.a.rows,
          .n = call.b.rows,
          .k = call.a.cols,
          .row_scales = e.row_scales.data(),
          .col_scales = e.col_scales.data(),
          .per_row = e.row_scales.size() > 1,
          .per_col = e.col_scales.size() > 1,
          .bias = e.bias.empty() ? nullptr : e.bias.data(),
          .y = call.y.data,
          .stride = call.y.stride,
          .sm_count = multiprocessors()};
}

// Milliseconds of the best of a few runs, or infinity if the tile cannot run the call.
float time_tile(const Exec& exec, const Sm90Tile& tile, const Sm90Call& call) {
  float best = std::numeric_limits<float>::infinity();
  if (!tile.launch(exec, call)) return best;
  const Event begin, end;
  for (int run = 0; run < kTimedRuns; ++run) {
    QAT_CUDA_CHECK(cudaEventRecord(begin.get(), cuda_stream(exec)));
    tile.launch(exec, call);
    QAT_CUDA_CHECK(cudaEventRecord(end.get(), cuda_stream(exec)));
    QAT_CUDA_CHECK(cudaEventSynchronize(end.get()));
    float ms = 0.0F;
    QAT_CUDA_CHECK(cudaEventElapsedTime(&ms, begin.get(), end.get()));
    best = std::min(best, ms);
  }
  return best;
}

// The tile that `call` is fastest with; y is overwritten by each.
int fastest_tile(const Exec& exec, std::span<const Sm90Tile> tiles, const Sm90Call& call) {
  std::vector<float> times;
  for (const Sm90Tile& tile : tiles) times.push_back(time_tile(exec, tile, call));
  const auto best = std::min_element(times.begin(), times.end());
  QAT_CHECK(*best < std::numeric_limits<float>::infinity(), "no tile can run a product that the plan gave to CUTLASS");
  return static_cast<int>(best - times.begin());
}

// Timing waits for the stream, which a stream under capture refuses.
bool may_wait(const Exec& exec) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  QAT_CUDA_CHECK(cudaStreamIsCapturing(cuda_stream(exec), &status));
  return status == cudaStreamCaptureStatusNone;
}

}  // namespace

int cutlass_tile_count(DType out) { return static_cast<int>(tiles_for(out).size()); }

const char* cutlass_tile_name(DType out, int tile) { return tiles_for(out)[static_cast<std::size_t>(tile)].name; }

const char* picked_tile_name(const MatmulProblem& problem) {
  const std::lock_guard lock(picks().mutex);
  const auto found = picks().tiles.find(key_of(current_device(), problem));
  if (found == picks().tiles.end()) return nullptr;
  return cutlass_tile_name(problem.out, found->second);
}

void matmul_cutlass(const Exec& exec, const CudaMatmul& call, const MatmulTuning& tuning) {
  const MatmulProblem problem = problem_of(call);
  const std::span<const Sm90Tile> tiles = tiles_for(problem.out);
  const int device = current_device();
  const Sm90Call launch = sm90_call(call);
  if (tuning.tile.has_value()) {
    const auto tile = static_cast<std::size_t>(*tuning.tile);
    QAT_CHECK(tile < tiles.size(), "tile " + std::to_string(tile) + " of " + std::to_string(tiles.size()));
    QAT_CHECK(tiles[tile].launch(exec, launch), std::string(tiles[tile].name) + " cannot run this shape");
    return;
  }
  if (tuning.pick == MatmulTuning::Pick::kTimed) {
    const ShapeKey key = key_of(device, problem);
    // Held while timing: a second thread would time the first one's kernels with its own.
    std::unique_lock lock(picks().mutex);
    auto found = picks().tiles.find(key);
    if (found == picks().tiles.end() && may_wait(exec))
      found = picks().tiles.emplace(key, fastest_tile(exec, tiles, launch)).first;
    if (found != picks().tiles.end()) {
      const Sm90Tile& tile = tiles[static_cast<std::size_t>(found->second)];
      lock.unlock();
      if (tile.launch(exec, launch)) return;  // else it runs another shape of this size
    }
  }
  for (const Sm90Tile& tile : tiles)
    if (tile.launch(exec, launch)) return;
  QAT_CHECK(false, "no tile can run a product that the plan gave to CUTLASS");
}

}  // namespace qat::kernels

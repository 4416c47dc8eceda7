#include "kernels/common/cuda_check.h"
#include "kernels/common/device_graph.h"
#include "kernels/common/error.h"

namespace qat {
namespace {

// Ends the recording on every way out.
class Recording {
 public:
  explicit Recording(cudaStream_t stream) : stream_(stream) {
    // Other threads, and allocations, are not the recording's business.
    QAT_CUDA_CHECK(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed));
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;
  ~Recording() {
    cudaGraph_t graph = nullptr;
    if (!ended_ && cudaStreamEndCapture(stream_, &graph) == cudaSuccess && graph != nullptr)
      (void)cudaGraphDestroy(graph);
  }
  cudaGraph_t end() {
    ended_ = true;
    cudaGraph_t graph = nullptr;
    QAT_CUDA_CHECK(cudaStreamEndCapture(stream_, &graph));
    return graph;
  }

 private:
  cudaStream_t stream_;
  bool ended_ = false;
};

}  // namespace

DeviceGraph::~DeviceGraph() {
  if (handle_ != nullptr) (void)cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(handle_));
}

void DeviceGraph::record(const kernels::Exec& exec, const std::function<void()>& body) {
  QAT_CHECK(exec.device == Device::kCuda && exec.stream.handle != nullptr,
            "what is recorded is a GPU's work on a stream of its own");
  Recording recording(cuda_stream(exec));
  body();
  cudaGraph_t graph = recording.end();
  cudaGraphExec_t made = nullptr;
  const cudaError_t code = cudaGraphInstantiate(&made, graph, 0);
  (void)cudaGraphDestroy(graph);
  QAT_CUDA_CHECK(code);
  *this = DeviceGraph();
  handle_ = made;
}

void DeviceGraph::launch(const kernels::Exec& exec) const {
  QAT_CHECK(is_recorded(), "a graph is recorded before it is launched");
  QAT_CUDA_CHECK(cudaGraphLaunch(static_cast<cudaGraphExec_t>(handle_), cuda_stream(exec)));
}

}  // namespace qat

#include "dist/comm/nccl_comm.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/comm/buffer_checks.h"
#include "dist/comm/nccl_handle.h"
#include "dist/comm/start_hints.h"
#include "kernels/common/cuda_check.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/device_scratch.h"
#include "kernels/grad/tree_sum.h"

namespace qat::dist {
namespace {

// Shards are cut at multiples of so many elements where that is free: whole 16-byte accesses.
constexpr std::int64_t kAlignElems = 64;

int current_device() {
  int device = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

ncclDataType_t integer_type(DType dtype) {
  switch (dtype) {
    case DType::kInt8:
      return ncclInt8;
    case DType::kUInt8:
      return ncclUint8;
    case DType::kInt32:
      return ncclInt32;
    case DType::kInt64:
      return ncclInt64;
    default:
      QAT_CHECK(false, "only integers are reduced by NCCL itself");
  }
}

ncclRedOp_t nccl_op(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return ncclSum;
    case ReduceOp::kMax:
      return ncclMax;
    case ReduceOp::kMin:
      return ncclMin;
  }
  QAT_CHECK(false, "no such reduction");
}

enum class Way : std::uint8_t { kTree, kNccl, kHost };

Way way_of(DType dtype, ReduceOp op) {
  if (dtype == DType::kFloat64) return Way::kHost;
  if (dtype == DType::kFloat32) return op == ReduceOp::kSum ? Way::kTree : Way::kHost;
  return Way::kNccl;
}

void require_device(const ConstBufferView& buffer) {
  QAT_CHECK(buffer.device == Device::kCuda, "a GPU buffer and a host buffer in one call");
  QAT_CHECK(buffer.elems >= 0 && (buffer.elems == 0 || buffer.data != nullptr), "a buffer without memory");
}

cudaStream_t handle(StreamRef stream) { return static_cast<cudaStream_t>(stream.handle); }
std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

// Memory of the device's pool for one call, ordered on its stream; what is given back serves the next call.
kernels::Exec exec_on(StreamRef stream) { return {.device = Device::kCuda, .stream = stream}; }

class NcclComm final : public Communicator {
 public:
  NcclComm(std::unique_ptr<Communicator> control, NcclHandle comm, const NcclCommOptions& options)
      : control_(std::move(control)),
        comm_(std::move(comm)),
        options_(options),
        rank_(control_->rank()),
        size_(control_->size()),
        device_(current_device()) {}

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string backend() const override { return "nccl"; }

  void all_reduce(BufferView data, ReduceOp op, StreamRef stream) override {
    if (data.device == Device::kCpu) return control_->all_reduce(data, op, stream);
    require_device(data);
    require_reducible(op, data.dtype);
    if (size_ == 1 || data.elems == 0) return;
    require_usable();
    switch (way_of(data.dtype, op)) {
      case Way::kTree:
        return all_reduce_tree(static_cast<float*>(data.data), data.elems, stream);
      case Way::kNccl:
        QAT_NCCL_CHECK(ncclAllReduce(data.data, data.data, to_size(data.elems), integer_type(data.dtype), nccl_op(op),
                                     comm_.get(), handle(stream)));
        return;
      case Way::kHost:
        return on_host(data, data, stream, [&](BufferView host, BufferView) { control_->all_reduce(host, op); });
    }
  }

  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef stream) override {
    if (in.device == Device::kCpu) return control_->reduce_scatter(in, out, op, stream);
    require_device(in);
    require_device(out);
    require_reducible(op, in.dtype);
    QAT_CHECK(in.dtype == out.dtype, "reduce_scatter between two dtypes");
    QAT_CHECK(in.elems == out.elems * size_, "reduce_scatter: `in` must be size times `out`");
    if (out.elems == 0) return;
    if (size_ == 1) return copy_own(in.data, out.data, out.bytes(), stream);
    require_usable();
    switch (way_of(in.dtype, op)) {
      case Way::kTree:
        return reduce_scatter_tree(static_cast<const float*>(in.data), static_cast<float*>(out.data), out.elems,
                                   stream);
      case Way::kNccl:
        QAT_NCCL_CHECK(ncclReduceScatter(in.data, out.data, to_size(out.elems), integer_type(in.dtype), nccl_op(op),
                                         comm_.get(), handle(stream)));
        return;
      case Way::kHost:
        return on_host(in, out, stream,
                       [&](BufferView host, BufferView result) { control_->reduce_scatter(host, result, op); });
    }
  }

  void all_gather(ConstBufferView in, BufferView out, StreamRef stream) override {
    if (in.device == Device::kCpu) return control_->all_gather(in, out, stream);
    require_device(in);
    require_device(out);
    QAT_CHECK(in.dtype == out.dtype, "all_gather between two dtypes");
    QAT_CHECK(out.elems == in.elems * size_, "all_gather: `out` must be size times `in`");
    if (in.elems == 0) return;
    if (size_ == 1) return copy_own(in.data, out.data, in.bytes(), stream);
    require_usable();
    QAT_NCCL_CHECK(ncclAllGather(in.data, out.data, in.bytes(), ncclUint8, comm_.get(), handle(stream)));
  }

  void broadcast(BufferView data, int root, StreamRef stream) override {
    if (data.device == Device::kCpu) return control_->broadcast(data, root, stream);
    require_device(data);
    require_peer(root, size_);
    if (size_ == 1 || data.elems == 0) return;
    require_usable();
    QAT_NCCL_CHECK(ncclBroadcast(data.data, data.data, data.bytes(), ncclUint8, root, comm_.get(), handle(stream)));
  }

  void send(ConstBufferView data, int destination, int tag, StreamRef stream) override {
    if (data.device == Device::kCpu) return control_->send(data, destination, tag, stream);
    require_device(data);
    require_other(destination);
    require_tag(tag);
    if (data.elems == 0) return;
    require_usable();
    QAT_NCCL_CHECK(ncclSend(data.data, data.bytes(), ncclUint8, destination, comm_.get(), handle(stream)));
  }

  void receive(BufferView data, int source, int tag, StreamRef stream) override {
    if (data.device == Device::kCpu) return control_->receive(data, source, tag, stream);
    require_device(data);
    require_other(source);
    require_tag(tag);
    if (data.elems == 0) return;
    require_usable();
    QAT_NCCL_CHECK(ncclRecv(data.data, data.bytes(), ncclUint8, source, comm_.get(), handle(stream)));
  }

  void barrier() override { control_->barrier(); }

  std::unique_ptr<Communicator> split(int color, int key) override {
    std::unique_ptr<Communicator> control = control_->split(color, key);
    if (comm_.get() == nullptr) return std::make_unique<NcclComm>(std::move(control), NcclHandle(), options_);
    require_usable();
    QAT_CUDA_CHECK(cudaDeviceSynchronize());  // a communicator is not split while it works
    ncclComm_t part = nullptr;
    QAT_NCCL_CHECK(ncclCommSplit(comm_.get(), color, key, &part, nullptr));
    return std::make_unique<NcclComm>(std::move(control), NcclHandle(part), options_);
  }

 private:
  void require_other(int peer) const {
    require_peer(peer, size_);
    QAT_CHECK(peer != rank_, "a rank does not send GPU memory to itself");
  }

  // Errors of earlier calls (a dead peer, a broken link) show up here, for the calls themselves only enqueue work.
  void require_usable() const {
    QAT_CHECK(current_device() == device_, "this thread's CUDA device is not the communicator's");
    ncclResult_t state = ncclSuccess;
    QAT_NCCL_CHECK(ncclCommGetAsyncError(comm_.get(), &state));
    if (state != ncclSuccess && state != ncclInProgress)
      throw_nccl_error(state, "an earlier NCCL operation", __FILE__, __LINE__);
  }

  static void copy_own(const void* from, void* to, std::size_t bytes, StreamRef stream) {
    if (from != to) cuda_copy(to, from, bytes, stream);
  }

  // in [size_ * n] -> out [n]: the tree over the ranks of this rank's block. Afterwards the other blocks of `in` are as
  // they were, so `out` may be this rank's block of it.
  void reduce_scatter_tree(const float* in, float* out, std::int64_t n, StreamRef stream) {
    const std::int64_t most = options_.scratch_bytes / (size_ * static_cast<std::int64_t>(sizeof(float)));
    const std::int64_t step = std::max(kAlignElems, most / kAlignElems * kAlignElems);
    const kernels::DeviceScratch<float> received(exec_on(stream), size_ * std::min(step, n));
    for (std::int64_t begin = 0; begin < n; begin += step) {
      const std::int64_t elems = std::min(step, n - begin);
      NcclGroup group;
      for (int distance = 1; distance < size_; ++distance) {  // everyone starts with another peer
        const int to = (rank_ + distance) % size_;
        const int from = (rank_ + size_ - distance) % size_;
        QAT_NCCL_CHECK(ncclSend(in + to * n + begin, to_size(elems), ncclFloat, to, comm_.get(), handle(stream)));
        QAT_NCCL_CHECK(
            ncclRecv(received.get() + from * elems, to_size(elems), ncclFloat, from, comm_.get(), handle(stream)));
      }
      group.end();
      cuda_copy(received.get() + rank_ * elems, in + rank_ * n + begin, to_size(elems) * sizeof(float), stream);
      sum_parts(received.get(), out + begin, elems, stream);
    }
  }

  // Gathers all and sums everywhere.
  void all_reduce_small(float* data, std::int64_t n, StreamRef stream) {
    const kernels::DeviceScratch<float> gathered(exec_on(stream), size_ * n);
    QAT_NCCL_CHECK(ncclAllGather(data, gathered.get(), to_size(n), ncclFloat, comm_.get(), handle(stream)));
    sum_parts(gathered.get(), data, n, stream);
  }

  void all_reduce_tree(float* data, std::int64_t n, StreamRef stream) {
    const std::int64_t unit = size_ * kAlignElems;
    const bool small = n * static_cast<std::int64_t>(sizeof(float)) <= options_.small_bytes;
    const std::int64_t whole = small ? 0 : n / unit * unit;  // the same for each element, however it is cut
    if (whole > 0) {
      const std::int64_t shard = whole / size_;
      float* const own = data + rank_ * shard;
      reduce_scatter_tree(data, own, shard, stream);
      QAT_NCCL_CHECK(ncclAllGather(own, data, to_size(shard), ncclFloat, comm_.get(), handle(stream)));
    }
    if (whole < n) all_reduce_small(data + whole, n - whole, stream);
  }

  void sum_parts(const float* parts, float* sum, std::int64_t n, StreamRef stream) const {
    kernels::tree_sum(exec_on(stream), {parts, to_size(size_ * n)}, size_, {sum, to_size(n)});
  }

  // body(host copy of `in`, host buffer like `out`); where both are one buffer, so they are on the host.
  template <typename Body>
  static void on_host(ConstBufferView in, BufferView out, StreamRef stream, const Body& body) {
    const bool in_place = in.data == out.data && in.elems == out.elems;
    std::vector<double> input((in.bytes() + sizeof(double) - 1) / sizeof(double));  // aligned for any element type
    std::vector<double> output(in_place ? 0 : (out.bytes() + sizeof(double) - 1) / sizeof(double));
    const BufferView host_in{input.data(), in.elems, in.dtype, Device::kCpu};
    const BufferView host_out{in_place ? input.data() : output.data(), out.elems, out.dtype, Device::kCpu};
    cuda_copy_to_host(input.data(), in.data, in.bytes(), stream);
    body(host_in, host_out);
    cuda_copy_to_device(out.data, host_out.data, out.bytes(), stream);
  }

  std::unique_ptr<Communicator> control_;
  NcclHandle comm_;  // none in a group of one
  NcclCommOptions options_;
  int rank_;
  int size_;
  int device_;
};

RankReport failed_start(const std::string& what) {
  return {.ok = false, .exit_code = static_cast<int>(ErrorKind::kCommunication), .message = what + nccl_start_hints()};
}

// What rank 0 has made, on every rank.
ncclUniqueId agree_on_id(Communicator& control) {
  ncclUniqueId id{};
  RankReport report;
  if (control.rank() == 0) {
    try {
      QAT_NCCL_CHECK(ncclGetUniqueId(&id));
    } catch (const Error& error) {
      report = failed_start(error.what());
    }
  }
  agree(control, report, "NCCL set-up");
  std::vector<std::uint8_t> bytes(sizeof id);
  std::memcpy(bytes.data(), &id, sizeof id);
  control.broadcast(view(bytes), 0);
  std::memcpy(&id, bytes.data(), sizeof id);
  return id;
}

// A byte to and from every rank: NCCL connects ranks when they first have something to say to each other, and what
// cannot be connected is to show now.
void meet_everyone(ncclComm_t comm, int rank, int size) {
  const StreamRef stream;
  const kernels::DeviceScratch<std::uint8_t> bytes(exec_on(stream), 2 * std::int64_t{size});
  std::uint8_t* const out = bytes.get();
  std::uint8_t* const in = out + size;
  cuda_zero(out, 2 * to_size(size), stream);
  NcclGroup group;
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    QAT_NCCL_CHECK(ncclSend(out + peer, 1, ncclUint8, peer, comm, handle(stream)));
    QAT_NCCL_CHECK(ncclRecv(in + peer, 1, ncclUint8, peer, comm, handle(stream)));
  }
  group.end();
  QAT_NCCL_CHECK(ncclAllGather(out + rank, out, 1, ncclUint8, comm, handle(stream)));
  cuda_synchronize(stream);
}

// This rank's membership, on a thread of its own: NCCL waits without end for a peer that does not come, and what it has
// made by then can be neither used nor freed. (Its non-blocking mode could be aborted, but every later call would be
// one that may not have begun when it returns.)
std::future<ncclComm_t> start(const ncclUniqueId& id, int rank, int size) {
  std::packaged_task<ncclComm_t()> task([id, rank, size, device = current_device()] {
    set_cuda_device(device);
    ncclComm_t comm = nullptr;
    QAT_NCCL_CHECK(ncclCommInitRank(&comm, size, id, rank));
    int nccl_rank = -1;
    QAT_NCCL_CHECK(ncclCommUserRank(comm, &nccl_rank));
    QAT_CHECK(nccl_rank == rank, "NCCL and the control communicator disagree about ranks");
    meet_everyone(comm, rank, size);
    return comm;
  });
  std::future<ncclComm_t> started = task.get_future();
  std::thread(std::move(task)).detach();
  return started;
}

}  // namespace

void throw_nccl_error(ncclResult_t code, const char* call, const char* file, int line) {
  const char* const words = ncclGetLastError(nullptr);
  const std::string last = words == nullptr ? "" : words;
  std::string text = std::string("NCCL failed: ") + ncclGetErrorString(code);
  if (!last.empty()) text += " (" + last + ")";
  // NCCL has no code for it: "Cuda failure 2 'out of memory'", "Failed to CUDA calloc 1024 bytes", "Failed to malloc
  // ..."
  const bool no_memory = last.find("out of memory") != std::string::npos ||
                         (last.find("Failed to") != std::string::npos && last.find("alloc") != std::string::npos);
  throw Error(no_memory ? ErrorKind::kOutOfMemory : ErrorKind::kCommunication,
              text + " in `" + call + "` at " + file + ":" + std::to_string(line) + "; NCCL_DEBUG=WARN tells more");
}

std::unique_ptr<Communicator> make_nccl_world(std::unique_ptr<Communicator>&& control, const NcclCommOptions& options) {
  QAT_CHECK(options.small_bytes >= 0, "a negative size");
  QAT_CHECK(options.scratch_bytes >= 65536, "a reduction needs at least 64 KiB of scratch memory");
  if (control->size() == 1) return std::make_unique<NcclComm>(std::move(control), NcclHandle(), options);
  const ncclUniqueId id = agree_on_id(*control);
  std::future<ncclComm_t> started = start(id, control->rank(), control->size());
  ncclComm_t comm = nullptr;
  RankReport report;
  if (started.wait_for(std::chrono::duration<double>(options.start_seconds)) != std::future_status::ready) {
    report = failed_start("NCCL has not connected the GPUs within " +
                          std::to_string(std::lround(options.start_seconds)) + " s; NCCL_DEBUG=WARN tells more");
  } else {
    try {
      comm = started.get();
    } catch (const Error& error) {
      report = failed_start(error.what());
    }
  }
  agree(*control, report, "NCCL set-up");  // throws: what NCCL has made stays as it is, its peers are not there
  return std::make_unique<NcclComm>(std::move(control), NcclHandle(comm), options);
}

}  // namespace qat::dist

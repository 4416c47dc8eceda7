#include "dist/comm/nccl_comm.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dist/comm/buffer_checks.h"
#include "dist/comm/nccl_handle.h"
#include "dist/comm/nccl_start.h"
#include "dist/comm/nccl_versions.h"
#include "kernels/common/cuda_check.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/device_scratch.h"
#include "kernels/grad/tree_sum.h"

namespace qat::dist {
namespace {

// Shards are cut at multiples of so many elements where that is free: whole 16-byte accesses.
constexpr std::int64_t kAlignElems = 64;

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

cudaStream_t handle(StreamRef stream) { return static_cast<cudaStream_t>(stream.handle); }
std::size_t to_size(std::int64_t value) { return static_cast<std::size_t>(value); }

// Memory of the device's pool for one call, ordered on its stream; what is given back serves the next call.
kernels::Exec exec_on(StreamRef stream) { return {.device = Device::kCuda, .stream = stream}; }

int current_device() {
  int device = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  return device;
}

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
    require_all_reduce(data, op, Device::kCuda);
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
    require_reduce_scatter(in, out, op, size_, Device::kCuda);
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
    require_all_gather(in, out, size_, Device::kCuda);
    if (in.elems == 0) return;
    if (size_ == 1) return copy_own(in.data, out.data, in.bytes(), stream);
    require_usable();
    QAT_NCCL_CHECK(ncclAllGather(in.data, out.data, in.bytes(), ncclUint8, comm_.get(), handle(stream)));
  }

  void broadcast(BufferView data, int root, StreamRef stream) override {
    if (data.device == Device::kCpu) return control_->broadcast(data, root, stream);
    require_broadcast(data, root, size_, Device::kCuda);
    if (size_ == 1 || data.elems == 0) return;
    require_usable();
    QAT_NCCL_CHECK(ncclBroadcast(data.data, data.data, data.bytes(), ncclUint8, root, comm_.get(), handle(stream)));
  }

  void all_to_all(ConstBufferView in, BufferView out, StreamRef stream) override {
    if (in.device == Device::kCpu) return control_->all_to_all(in, out, stream);
    require_all_to_all(in, out, size_, Device::kCuda);
    if (in.elems == 0) return;
    if (size_ == 1) return copy_own(in.data, out.data, in.bytes(), stream);
    require_usable();
    const std::size_t block = in.bytes() / to_size(size_);
    send_blocks({in.data, block}, {out.data, block}, block, stream);
  }

  void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef stream) override {
    if (sends.empty() && receives.empty()) return;
    if ((sends.empty() ? receives[0].data.device : sends[0].data.device) == Device::kCpu)
      return control_->exchange(sends, receives, stream);
    require_exchange(sends, receives, size_, Device::kCuda);
    // NCCL has no tags: what goes to a peer leaves, and what comes from it is expected, in the order of the tags.
    std::vector<SendTo> out(sends.begin(), sends.end());
    std::vector<ReceiveFrom> in(receives.begin(), receives.end());
    const auto by_tag = [](const auto& a, const auto& b) { return a.tag < b.tag; };
    std::stable_sort(out.begin(), out.end(), by_tag);
    std::stable_sort(in.begin(), in.end(), by_tag);
    copy_own_messages(out, in, stream);
    if (size_ == 1) return;
    require_usable();
    NcclGroup group;
    for (const SendTo& message : out) {
      if (message.destination == rank_ || message.data.elems == 0) continue;
      QAT_NCCL_CHECK(ncclSend(message.data.data, message.data.bytes(), ncclUint8, message.destination, comm_.get(),
                              handle(stream)));
    }
    for (const ReceiveFrom& message : in) {
      if (message.source == rank_ || message.data.elems == 0) continue;
      QAT_NCCL_CHECK(
          ncclRecv(message.data.data, message.data.bytes(), ncclUint8, message.source, comm_.get(), handle(stream)));
    }
    group.end();
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

  // Messages of this rank to itself, of an exchange sorted by tag.
  void copy_own_messages(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef stream) const {
    auto to = receives.begin();
    const auto next_own = [&] {
      to = std::find_if(to, receives.end(), [&](const ReceiveFrom& message) { return message.source == rank_; });
    };
    next_own();
    for (const SendTo& from : sends) {
      if (from.destination != rank_) continue;
      QAT_CHECK(to != receives.end() && to->tag == from.tag, "a message to oneself is received in the same exchange");
      require_received(from.data.bytes(), to->data.bytes(), rank_, rank_);
      copy_own(from.data.data, to->data.data, from.data.bytes(), stream);
      ++to;
      next_own();
    }
    QAT_CHECK(to == receives.end(), "a message from oneself is sent in the same exchange");
  }

  // One block for every rank, `stride` bytes apart.
  struct ConstBlocks {
    const void* data;
    std::size_t stride;
    const std::byte* of(int rank) const { return static_cast<const std::byte*>(data) + to_size(rank) * stride; }
  };
  struct Blocks {
    void* data;
    std::size_t stride;
    std::byte* of(int rank) const { return static_cast<std::byte*>(data) + to_size(rank) * stride; }
  };

  // Block r of `in` to rank r, block r of `out` from rank r, the first `bytes` of each.
  void send_blocks(const ConstBlocks& in, const Blocks& out, std::size_t bytes, StreamRef stream) const {
    NcclGroup group;
    for (int distance = 1; distance < size_; ++distance) {  // everyone starts with another peer
      const int to = (rank_ + distance) % size_;
      const int from = (rank_ + size_ - distance) % size_;
      QAT_NCCL_CHECK(ncclSend(in.of(to), bytes, ncclUint8, to, comm_.get(), handle(stream)));
      QAT_NCCL_CHECK(ncclRecv(out.of(from), bytes, ncclUint8, from, comm_.get(), handle(stream)));
    }
    group.end();
    cuda_copy(out.of(rank_), in.of(rank_), bytes, stream);
  }

  // in [size_ * n] -> out [n]: the tree over the ranks of this rank's block. Afterwards the other blocks of `in` are as
  // they were, so `out` may be this rank's block of it.
  void reduce_scatter_tree(const float* in, float* out, std::int64_t n, StreamRef stream) {
    const std::int64_t most = options_.scratch_bytes / (size_ * static_cast<std::int64_t>(sizeof(float)));
    const std::int64_t step = std::max(kAlignElems, most / kAlignElems * kAlignElems);
    const kernels::DeviceScratch<float> received(exec_on(stream), size_ * std::min(step, n));
    for (std::int64_t begin = 0; begin < n; begin += step) {
      const std::int64_t elems = std::min(step, n - begin);
      const std::size_t bytes = to_size(elems) * sizeof(float);
      send_blocks({in + begin, to_size(n) * sizeof(float)}, {received.get(), bytes}, bytes, stream);
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

}  // namespace

NcclVersions nccl_versions() noexcept {
  NcclVersions versions{.built = NCCL_VERSION_CODE};
  if (ncclGetVersion(&versions.loaded) != ncclSuccess) versions.loaded = -1;
  return versions;
}

std::unique_ptr<Communicator> make_nccl_world(std::unique_ptr<Communicator>&& control, const NcclCommOptions& options) {
  QAT_CHECK(options.small_bytes >= 0, "a negative size");
  QAT_CHECK(options.scratch_bytes >= 65536, "a reduction needs at least 64 KiB of scratch memory");
  NcclHandle comm = control->size() == 1 ? NcclHandle() : NcclHandle(connect_gpus(*control, options.start_seconds));
  return std::make_unique<NcclComm>(std::move(control), std::move(comm), options);
}

}  // namespace qat::dist

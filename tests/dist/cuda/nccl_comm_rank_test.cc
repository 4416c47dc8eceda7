// The communicator contract over real NCCL: the cases of communicator_cases.h with every buffer on the GPU, the same
// with host buffers, and large sums against the MPI backend's. Needs a GPU for each rank; with fewer it says so and
// tests nothing.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <string>

#include "dist/comm/device_assignment.h"
#include "dist/comm/nccl_comm.h"
#include "dist/grad/cuda_flat_memory.h"
#include "dist/grad/error_feedback.h"
#include "dist/grad/grad_reducer.h"
#include "dist/grad/value_gather.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/device_stream.h"
#include "tests/dist/communicator_cases.h"
#include "tests/dist/rank_test_main.h"
#include "tests/support/busy_stream.h"

namespace qat::dist {
namespace {

class GpuMemory {
 public:
  explicit GpuMemory(std::size_t bytes, StreamRef stream = {})
      : data_(static_cast<std::byte*>(cuda_allocate(bytes + 16))) {
    const std::vector<std::byte> poison(bytes + 16, std::byte{0xFF});  // NaN, -1: what is not written shows
    cuda_copy_to_device(data_, poison.data(), poison.size(), stream);
  }
  GpuMemory(const GpuMemory&) = delete;
  GpuMemory& operator=(const GpuMemory&) = delete;
  ~GpuMemory() { cuda_free(data_); }
  std::byte* get() const { return data_; }

 private:
  std::byte* data_;
};

// Passes host buffers through the GPU to a communicator that gets them there, so that the host's cases test it. All of
// it on one stream; if that is not the default one, the default one is kept busy: what goes there comes too late.
class ThroughGpu final : public Communicator {
 public:
  ThroughGpu(Communicator* comm, std::unique_ptr<Communicator> owned, StreamRef stream)
      : comm_(comm), owned_(std::move(owned)), stream_(stream) {}

  int rank() const noexcept override { return comm_->rank(); }
  int size() const noexcept override { return comm_->size(); }
  std::string backend() const override { return comm_->backend(); }

  void all_reduce(BufferView data, ReduceOp op, StreamRef) override {
    const Uploaded gpu(data, stream_);
    keep_default_busy();
    comm_->all_reduce(gpu.view(), op, stream_);
    gpu.download(data);
  }
  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef) override {
    const Uploaded whole(in, stream_);
    const std::ptrdiff_t at = offset_in(in, out);
    const Uploaded apart(out, stream_);
    const BufferView block = at >= 0 ? whole.part(at, out) : apart.view();
    keep_default_busy();
    comm_->reduce_scatter(whole.view(), block, op, stream_);
    cuda_copy_to_host(out.data, block.data, out.bytes(), stream_);
  }
  void all_gather(ConstBufferView in, BufferView out, StreamRef) override {
    const Uploaded whole(out, stream_);
    const std::ptrdiff_t at = offset_in(out, in);
    const Uploaded apart(in, stream_);
    keep_default_busy();
    comm_->all_gather(at >= 0 ? whole.part(at, in) : apart.view(), whole.view(), stream_);
    whole.download(out);
  }
  void broadcast(BufferView data, int root, StreamRef) override {
    const Uploaded gpu(data, stream_);
    keep_default_busy();
    comm_->broadcast(gpu.view(), root, stream_);
    gpu.download(data);
  }
  void all_to_all(ConstBufferView in, BufferView out, StreamRef) override {
    const Uploaded from(in, stream_), to(out, stream_);
    keep_default_busy();
    comm_->all_to_all(from.view(), to.view(), stream_);
    from.download({const_cast<void*>(in.data), in.elems, in.dtype, in.device});  // it must not have changed
    to.download(out);
  }
  void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef) override {
    std::vector<SendTo> out(sends.begin(), sends.end());
    std::vector<ReceiveFrom> in(receives.begin(), receives.end());
    std::vector<std::unique_ptr<Uploaded>> sent, received;
    for (SendTo& message : out) {
      sent.push_back(std::make_unique<Uploaded>(message.data, stream_));
      message.data = sent.back()->view();
    }
    for (ReceiveFrom& message : in) {
      received.push_back(std::make_unique<Uploaded>(message.data, stream_));
      message.data = received.back()->view();
    }
    keep_default_busy();
    comm_->exchange(out, in, stream_);
    cuda_synchronize(stream_);  // the memory dies here
    for (std::size_t i = 0; i < in.size(); ++i) received[i]->download(receives[i].data);
  }
  void barrier() override { comm_->barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override {
    std::unique_ptr<Communicator> part = comm_->split(color, key);
    Communicator* const raw = part.get();
    return std::make_unique<ThroughGpu>(raw, std::move(part), stream_);
  }

 private:
  class Uploaded {
   public:
    Uploaded(const ConstBufferView& host, StreamRef stream)
        : host_(host), memory_(host.bytes(), stream), stream_(stream) {
      cuda_copy_to_device(memory_.get(), host.data, host.bytes(), stream);
    }
    BufferView view() const { return {memory_.get(), host_.elems, host_.dtype, Device::kCuda}; }
    BufferView part(std::ptrdiff_t at, const ConstBufferView& like) const {
      return {memory_.get() + at, like.elems, like.dtype, Device::kCuda};
    }
    void download(const BufferView& host) const { cuda_copy_to_host(host.data, memory_.get(), host.bytes(), stream_); }

   private:
    ConstBufferView host_;
    GpuMemory memory_;
    StreamRef stream_;
  };

  void keep_default_busy() const {
    if (stream_.handle != nullptr && !test::is_busy({})) test::keep_busy({}, std::chrono::milliseconds(2));
  }

  // Where `part` begins inside `whole`, in bytes; -1 if it lies elsewhere.
  static std::ptrdiff_t offset_in(const ConstBufferView& whole, const ConstBufferView& part) {
    if (whole.elems == 0 || part.elems == 0) return -1;
    const auto begin = reinterpret_cast<std::uintptr_t>(whole.data);
    const auto at = reinterpret_cast<std::uintptr_t>(part.data);
    return at >= begin && at < begin + whole.bytes() ? static_cast<std::ptrdiff_t>(at - begin) : -1;
  }

  Communicator* comm_;
  std::unique_ptr<Communicator> owned_;
  StreamRef stream_;
};

class ContractTest : public ::testing::Test {
 public:
  explicit ContractTest(std::function<void()> body) : body_(std::move(body)) {}
  void TestBody() override { body_(); }

 private:
  std::function<void()> body_;
};

void register_test(const std::string& suite, const std::string& name, const std::function<void()>& body) {
  ::testing::RegisterTest(suite.c_str(), name.c_str(), nullptr, nullptr, __FILE__, __LINE__,
                          [body]() -> ::testing::Test* { return new ContractTest(body); });
}

void register_contract(const std::string& suite, Communicator& world) {
  for (const testing::CommunicatorCase& contract : testing::communicator_cases())
    register_test(suite, contract.name, [&world, contract] { contract.body(world); });
}

// Sums too large for one piece and not divisible by anything: the same bits as the host's tree.
void large_sums_equal_those_of_mpi(Communicator& gpu, Communicator& mpi) {
  for (const std::int64_t elems : {65'537, 300'007}) {
    const std::vector<float> leaf = testing::random_leaf(gpu.rank(), elems);
    std::vector<float> got = leaf;
    std::vector<float> want = leaf;
    gpu.all_reduce(view(got), ReduceOp::kSum);
    mpi.all_reduce(view(want), ReduceOp::kSum);
    EXPECT_EQ(testing::compare_bits(got, want), "equal") << "all_reduce of " << elems;

    const std::int64_t block = elems / gpu.size();
    const std::vector<float> in(leaf.begin(), leaf.begin() + block * gpu.size());
    std::vector<float> got_block(static_cast<std::size_t>(block));
    std::vector<float> want_block = got_block;
    gpu.reduce_scatter(view(in), view(got_block), ReduceOp::kSum);
    mpi.reduce_scatter(view(in), view(want_block), ReduceOp::kSum);
    EXPECT_EQ(testing::compare_bits(got_block, want_block), "equal") << "reduce_scatter of blocks of " << block;
  }
}

// As in training: leaves are added up on the GPU, the rest of the tree is summed over the ranks, on the GPU too.
void leaves_on_the_gpu_continue_the_tree_over_the_ranks(Communicator& world) {
  const int leaves = 8 / world.size();
  if (leaves * world.size() != 8) return;
  const std::int64_t padded = 640 * world.size();
  GradReducer reducer(world, padded, {.exec = {.device = Device::kCuda}});
  TreeAccumulator accumulator(padded, cuda_flat_memory());
  for (int leaf = 0; leaf < leaves; ++leaf) {
    const std::vector<float> values = testing::random_leaf(world.rank() * leaves + leaf, padded);
    cuda_copy_to_device(accumulator.next(/*zeroed=*/false).data(), values.data(), values.size() * sizeof(float));
    accumulator.commit();
  }
  const std::span<float> total = accumulator.result();
  reducer.reduce_scatter(total);
  world.all_gather({total.data() + reducer.shard().begin, 640, DType::kFloat32, Device::kCuda},
                   {total.data(), padded, DType::kFloat32, Device::kCuda});
  std::vector<float> got(static_cast<std::size_t>(padded));
  cuda_copy_to_host(got.data(), total.data(), got.size() * sizeof(float));
  std::vector<float> want;
  for (std::int64_t i = 0; i < padded; ++i) want.push_back(testing::tree_of_random(0, 8, i));
  EXPECT_EQ(testing::compare_bits(got, want), "equal");
}

// Weights that come back as codes: the bits of host memory over MPI, of one byte and of half a byte a code.
void values_as_codes_equal_those_of_mpi(Communicator& world, Communicator& mpi) {
  const std::int64_t rows = 24 * world.size(), cols = 96;
  const FlatLayout layout(std::vector<std::int64_t>{rows * cols, 5 * cols}, {.block = 32, .pad_to = 32 * world.size()});
  const DeviceStream stream(Device::kCuda);
  for (const int bits : {8, 4, 2}) {
    const std::vector<RowCodes> how(2, {.cols = cols, .bits = bits});
    const std::vector<int> buckets = {0};
    std::vector<float> want = testing::random_leaf(world.rank(), layout.elems());
    const std::shared_ptr<FlatMemory> memory = cuda_flat_memory(stream.ref());
    const std::shared_ptr<float> values = memory->allocate(layout.elems());
    const std::span<float> on_gpu(values.get(), want.size());
    cuda_copy_to_device(on_gpu.data(), want.data(), on_gpu.size_bytes(), stream.ref());
    WireStaging host(host_flat_memory()), device(memory);
    ValueGather(mpi, layout, {}).coded(buckets, how, want, host);
    ValueGather(world, layout, {.device = Device::kCuda, .stream = stream.ref()}).coded(buckets, how, on_gpu, device);
    std::vector<float> got(want.size());
    cuda_copy_to_host(got.data(), on_gpu.data(), on_gpu.size_bytes(), stream.ref());
    EXPECT_EQ(testing::compare_bits(got, want), "equal") << bits << " bits";
  }
}

// Two steps with feedback, whose second encodes what the first left: the bits of host memory over MPI. Nodes of one
// rank, too, which on two ranks are two levels.
void gradients_on_every_wire_equal_those_of_mpi(Communicator& world, Communicator& mpi) {
  const std::int64_t elems = 4096 * world.size();
  const FlatLayout layout(std::vector<std::int64_t>{elems}, {.pad_to = world.size()});
  const DeviceStream stream(Device::kCuda);
  const NodeGroups gpu_nodes = make_node_groups(world, 1), mpi_nodes = make_node_groups(mpi, 1);
  for (const WireFormat format : {WireFormat::kFloat32, WireFormat::kBFloat16, WireFormat::kInt8, WireFormat::kInt4})
    for (const WireSum sum : {WireSum::kCodeSum, WireSum::kTwoPhase})
      for (const bool levels : {false, true}) {
        const GradWire wire{.format = format, .sum = sum, .stochastic = kernels::has_codes(format)};
        const auto host = host_flat_memory();
        const auto memory = cuda_flat_memory(stream.ref());
        GradReducer gpu(world, elems,
                        {.exec = {.device = Device::kCuda, .stream = stream.ref()},
                         .wire = wire,
                         .nodes = levels ? &gpu_nodes : nullptr,
                         .staging = std::make_shared<WireStaging>(memory)});
        GradReducer cpu(
            mpi, elems,
            {.wire = wire, .nodes = levels ? &mpi_nodes : nullptr, .staging = std::make_shared<WireStaging>(host)});
        ErrorFeedback gpu_feedback(layout, world.rank(), world.size(), memory);
        ErrorFeedback cpu_feedback(layout, mpi.rank(), mpi.size(), host);
        const std::shared_ptr<float> full = memory->allocate(elems);
        const std::span<float> on_gpu(full.get(), static_cast<std::size_t>(elems));
        for (int step = 0; step < 2; ++step) {
          std::vector<float> values = testing::random_leaf(world.rank() + 10 * step, elems);
          cuda_copy_to_device(full.get(), values.data(), values.size() * sizeof(float), stream.ref());
          const kernels::WireRounding rounding{.key = {.seed = 3, .stream = static_cast<std::uint64_t>(step)}};
          const bool keeps = format != WireFormat::kFloat32;
          gpu.reduce_scatter(on_gpu, keeps ? gpu_feedback.of(0) : Feedback{}, rounding);
          cpu.reduce_scatter(values, keeps ? cpu_feedback.of(0) : Feedback{}, rounding);
          std::vector<float> got(values.size());
          cuda_copy_to_host(got.data(), full.get(), got.size() * sizeof(float), stream.ref());
          const auto shard = [&](const std::vector<float>& all) {
            return std::vector<float>(all.begin() + gpu.shard().begin, all.begin() + gpu.shard().end);
          };
          EXPECT_EQ(testing::compare_bits(shard(got), shard(values)), "equal")
              << "format " << static_cast<int>(format) << ", sum " << static_cast<int>(sum) << ", step " << step;
          if (!keeps) continue;
          gpu_feedback.commit(0, on_gpu);
          cpu_feedback.commit(0, values);
        }
      }
}

void misuse_is_refused_before_anything_is_sent(Communicator& world) {
  EXPECT_EQ(world.backend(), "nccl");
  const GpuMemory memory(64);
  const BufferView gpu{memory.get(), 4, DType::kFloat32, Device::kCuda};
  std::vector<float> host(4 * static_cast<std::size_t>(world.size()));
  EXPECT_THROW(world.all_gather(gpu, view(host)), Error) << "memory of two kinds";
  const std::vector<SendTo> to_itself{{.data = gpu, .destination = world.rank(), .tag = 0}};
  const std::vector<ReceiveFrom> to_host{{.data = view(host), .source = world.rank(), .tag = 0}};
  const std::vector<ReceiveFrom> other_tag{{.data = gpu, .source = world.rank(), .tag = 1}};
  EXPECT_THROW(world.exchange(to_itself, {}), Error) << "nobody receives it";
  EXPECT_THROW(world.exchange(to_itself, to_host), Error) << "memory of two kinds";
  EXPECT_THROW(world.exchange(to_itself, other_tag), Error) << "another message is received";
  EXPECT_THROW(world.broadcast(gpu, world.size()), Error) << "no such root";
  EXPECT_THROW(world.all_reduce({memory.get(), 4, DType::kBFloat16, Device::kCuda}, ReduceOp::kSum), Error);
  world.barrier();
}

int run(int argc, char** argv) {
  MpiSession session(&argc, &argv);
  if (cuda_device_count() < session.local_size()) {
    if (session.rank() == 0)
      std::printf("skipped: %d ranks on this machine and %d GPUs\n", session.local_size(), cuda_device_count());
    return 0;
  }
  try {
    std::unique_ptr<Communicator> control = make_mpi_world(session);
    set_cuda_device(assign_local_devices(*control));
    const std::unique_ptr<Communicator> nccl = make_nccl_world(std::move(control));
    // Everything above 64 bytes in shards, everything above 64 KiB in pieces.
    const std::unique_ptr<Communicator> pieces =
        make_nccl_world(make_mpi_world(session), {.small_bytes = 64, .scratch_bytes = 65536});
    const DeviceStream stream(Device::kCuda, DeviceStream::Priority::kHigh);
    ThroughGpu gpu(nccl.get(), nullptr, {});
    ThroughGpu gpu_pieces(pieces.get(), nullptr, {});
    ThroughGpu gpu_stream(nccl.get(), nullptr, stream.ref());
    return testing::run_rank_tests(session, &argc, argv, [&](Communicator& mpi) {
      register_contract("Nccl", gpu);
      register_contract("NcclInPieces", gpu_pieces);
      register_contract("NcclOnAStreamOfItsOwn", gpu_stream);
      register_contract("NcclOnHostMemory", *nccl);
      register_test("Nccl", "LargeSumsEqualThoseOfMpi", [&] { large_sums_equal_those_of_mpi(gpu, mpi); });
      register_test("NcclInPieces", "LargeSumsEqualThoseOfMpi",
                    [&] { large_sums_equal_those_of_mpi(gpu_pieces, mpi); });
      register_test("Nccl", "LeavesOnTheGpuContinueTheTreeOverTheRanks",
                    [&] { leaves_on_the_gpu_continue_the_tree_over_the_ranks(*nccl); });
      register_test("Nccl", "GradientsOnEveryWireEqualThoseOfMpi",
                    [&] { gradients_on_every_wire_equal_those_of_mpi(*nccl, mpi); });
      register_test("Nccl", "ValuesAsCodesEqualThoseOfMpi", [&] { values_as_codes_equal_those_of_mpi(*nccl, mpi); });
      register_test("Nccl", "MisuseIsRefusedBeforeAnythingIsSent",
                    [&] { misuse_is_refused_before_anything_is_sent(*nccl); });
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d of %d: %s\n", session.rank(), session.size(), error.what());
    session.abort(1);
  }
}

}  // namespace
}  // namespace qat::dist

int main(int argc, char** argv) { return qat::dist::run(argc, argv); }

// Memory that copy engines move (Communicator::exchange_memory over NCCL): the bits of host memory over MPI, message
// after message into the same memory, and no kernel that moves them. Needs a GPU for each rank; with fewer it says so
// and tests nothing. With NCCL_P2P_DISABLE=1 the same calls go by kernels, to the same results (but for the last case).
#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "dist/comm/device_assignment.h"
#include "dist/comm/nccl_comm.h"
#include "dist/comm/nccl_versions.h"
#include "dist/grad/cuda_flat_memory.h"
#include "dist/grad/exchange_flat_memory.h"
#include "dist/grad/grad_sync.h"
#include "dist/grad/value_gather.h"
#include "kernels/common/cuda_check.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/device_stream.h"
#include "tests/dist/random_leaves.h"
#include "tests/dist/rank_test_main.h"
#include "tests/support/busy_stream.h"

namespace qat::dist {
namespace {

using testing::compare_bits;
using testing::random_leaf;

Communicator* gpus = nullptr;  // of all ranks
Communicator* hosts = nullptr;

bool has_copy_engines() { return gpus->size() > 1 && nccl_versions().loaded >= 22800; }

std::shared_ptr<float> memory_of(Communicator& comm, std::int64_t elems, std::int64_t largest_sum = 0) {
  return std::static_pointer_cast<float>(comm.exchange_memory(elems * 4, largest_sum * 4));
}

BufferView on_gpu(float* data, std::int64_t elems) { return {data, elems, DType::kFloat32, Device::kCuda}; }

void upload(float* to, const std::vector<float>& values, StreamRef stream) {
  cuda_copy_to_device(to, values.data(), values.size() * sizeof(float), stream);
}

std::vector<float> download(const float* from, std::int64_t elems, StreamRef stream) {
  std::vector<float> values(static_cast<std::size_t>(elems));
  cuda_copy_to_host(values.data(), from, values.size() * sizeof(float), stream);
  return values;
}

// The ranks are early and late in turn: what is sent too early, or read before it has come, shows.
void one_rank_is_late(int round, StreamRef stream) {
  if (round % gpus->size() == gpus->rank()) test::keep_busy(stream, std::chrono::milliseconds(2));
}

TEST(ExchangeMemory, IsZeroedAndOfGroupsOfSeveralRanksOnly) {
  const std::shared_ptr<float> memory = memory_of(*gpus, 5000);
  EXPECT_EQ(memory != nullptr, has_copy_engines());
  if (memory == nullptr) return;
  EXPECT_EQ(compare_bits(download(memory.get(), 5000, {}), std::vector<float>(5000)), "equal");
  const std::unique_ptr<Communicator> alone = gpus->split(gpus->rank(), 0);
  EXPECT_EQ(alone->exchange_memory(4096), nullptr);
}

// On a stream of its own, and on the default one, of which copy engines take nothing.
class ExchangeMemoryOn : public ::testing::TestWithParam<bool> {
 protected:
  StreamRef stream() const { return GetParam() ? StreamRef{} : own_.ref(); }

 private:
  const DeviceStream own_{Device::kCuda, DeviceStream::Priority::kHigh};
};

INSTANTIATE_TEST_SUITE_P(Streams, ExchangeMemoryOn, ::testing::Bool(), [](const auto& which) {
  return which.param ? std::string("TheDefaultStream") : std::string("AStreamOfItsOwn");
});

TEST_P(ExchangeMemoryOn, SumsHaveTheBitsOfMpi) {
  const std::int64_t size = gpus->size(), skipped = 640;
  for (const std::int64_t shard : {std::int64_t{1}, std::int64_t{5003}, std::int64_t{300'000}}) {
    const std::shared_ptr<float> memory = memory_of(*gpus, skipped + shard * size, shard * size);
    if (memory == nullptr) GTEST_SKIP();
    float* const full = memory.get() + skipped;
    for (int round = 0; round < 6; ++round) {
      std::vector<float> want = random_leaf(gpus->rank() + 10 * round, shard * size);
      upload(full, want, stream());
      one_rank_is_late(round, stream());
      gpus->reduce_scatter(on_gpu(full, shard * size), on_gpu(full + gpus->rank() * shard, shard), ReduceOp::kSum,
                           stream());
      const std::vector<float> got = download(full, shard * size, stream());
      const std::span<float> own(want.data() + gpus->rank() * shard, static_cast<std::size_t>(shard));
      hosts->reduce_scatter(view(want), view(own), ReduceOp::kSum);
      EXPECT_EQ(compare_bits(got, want), "equal") << shard << " elements a rank, round " << round;
    }
  }
}

// Several buckets in a row, without a wait between them, the last too large for what is kept to receive in.
TEST(ExchangeMemory, SumsFollowEachOther) {
  const DeviceStream stream(Device::kCuda), other(Device::kCuda);
  const std::int64_t size = gpus->size();
  const std::vector<std::int64_t> shards = {70'000, 3, 90'000, 90'000, 400'000};
  std::int64_t elems = 0;
  for (const std::int64_t shard : shards) elems += shard * size;
  const std::shared_ptr<float> memory = memory_of(*gpus, elems, 90'000 * size);
  if (memory == nullptr) GTEST_SKIP();
  for (int round = 0; round < 4; ++round) {
    std::vector<float> want = random_leaf(gpus->rank() + 100 * round, elems);
    upload(memory.get(), want, stream.ref());
    DeviceEvent filled(Device::kCuda);
    filled.record(stream.ref());
    filled.hold(other.ref());
    one_rank_is_late(round, other.ref());
    std::int64_t begin = 0;
    for (std::size_t i = 0; i < shards.size(); ++i) {  // the order of the calls is that of all ranks
      float* const full = memory.get() + begin;
      gpus->reduce_scatter(on_gpu(full, shards[i] * size), on_gpu(full + gpus->rank() * shards[i], shards[i]),
                           ReduceOp::kSum, i % 2 == 0 ? stream.ref() : other.ref());
      const std::span<float> all(want.data() + begin, static_cast<std::size_t>(shards[i] * size));
      const std::span<float> own =
          all.subspan(static_cast<std::size_t>(gpus->rank() * shards[i]), static_cast<std::size_t>(shards[i]));
      hosts->reduce_scatter(view(all), view(own), ReduceOp::kSum);
      begin += shards[i] * size;
    }
    cuda_synchronize(other.ref());
    EXPECT_EQ(compare_bits(download(memory.get(), elems, stream.ref()), want), "equal") << "round " << round;
  }
}

TEST_P(ExchangeMemoryOn, BlocksGoWhereTheyBelong) {
  const std::int64_t size = gpus->size();
  for (const std::int64_t block : {std::int64_t{1}, std::int64_t{5003}, std::int64_t{250'000}}) {
    const std::shared_ptr<float> in = memory_of(*gpus, block * size), out = memory_of(*gpus, block * size);
    if (in == nullptr) GTEST_SKIP();
    const std::shared_ptr<float> outside = cuda_flat_memory(stream())->allocate(block * size);
    for (int round = 0; round < 6; ++round) {
      const std::vector<float> given = random_leaf(gpus->rank() + 10 * round, block * size);
      upload(in.get(), given, stream());
      one_rank_is_late(round, stream());
      float* const to = round == 5 ? outside.get() : out.get();
      gpus->all_to_all(on_gpu(in.get(), block * size), on_gpu(to, block * size), stream());
      std::vector<float> want(given.size());
      hosts->all_to_all(view(given), view(want));
      EXPECT_EQ(compare_bits(download(to, block * size, stream()), want), "equal") << "all_to_all of " << block;

      gpus->all_gather(on_gpu(in.get(), block), on_gpu(to, block * size), stream());
      hosts->all_gather(view(std::span(given).first(static_cast<std::size_t>(block))), view(want));
      EXPECT_EQ(compare_bits(download(to, block * size, stream()), want), "equal") << "all_gather of " << block;

      float* const own = to + gpus->rank() * block;  // in place
      upload(own, std::vector<float>(given.end() - block, given.end()), stream());
      gpus->all_gather(on_gpu(own, block), on_gpu(to, block * size), stream());
      hosts->all_gather(view(std::span(given).last(static_cast<std::size_t>(block))), view(want));
      EXPECT_EQ(compare_bits(download(to, block * size, stream()), want), "equal") << "in place, of " << block;
    }
  }
}

TEST(ExchangeMemory, ComesAndGoesInEveryGroup) {
  const std::unique_ptr<Communicator> reversed = gpus->split(0, -gpus->rank());
  const std::int64_t size = gpus->size();
  for (int round = 0; round < 5; ++round) {
    for (Communicator* const comm : {gpus, reversed.get()}) {
      const std::int64_t shard = 100'000 + 7 * round;
      const std::shared_ptr<float> first = memory_of(*comm, 1000 << round);
      const std::shared_ptr<float> full = memory_of(*comm, shard * size, shard * size);
      if (full == nullptr) GTEST_SKIP();
      upload(full.get(), random_leaf(comm->rank(), shard * size), {});
      float* const own = full.get() + comm->rank() * shard;
      comm->reduce_scatter(on_gpu(full.get(), shard * size), on_gpu(own, shard), ReduceOp::kSum);
      std::vector<float> want;
      for (std::int64_t i = 0; i < shard; ++i)
        want.push_back(testing::tree_of_random(0, comm->size(), comm->rank() * shard + i));
      EXPECT_EQ(compare_bits(download(own, shard, {}), want), "equal") << "round " << round;
    }
  }
}

TEST(ExchangeMemory, IsNobodysWhereOneRankHasNoRoom) {
  if (!has_copy_engines()) GTEST_SKIP();
  std::shared_ptr<void> taken;
  if (gpus->rank() == 0) taken = {cuda_allocate(static_cast<std::size_t>(cuda_free_bytes()) - (4U << 30U)), cuda_free};
  EXPECT_EQ(gpus->exchange_memory(std::int64_t{6} << 30), nullptr);
  taken.reset();
  EXPECT_NE(gpus->exchange_memory(4096), nullptr);
}

// As in training: gradients in their sums' memory and codes in their messages' give the bits that other memory gives.
TEST(ExchangeMemory, GradientsAndWeightsHaveTheBitsOfOtherMemory) {
  const std::int64_t cols = 96, rows = 40 * gpus->size();
  const FlatLayout layout(std::vector<std::int64_t>{rows * cols, 5 * cols}, {.block = 32, .pad_to = 32 * gpus->size()});
  const DeviceStream stream(Device::kCuda);
  const kernels::Exec exec{.device = Device::kCuda, .stream = stream.ref()};
  const std::shared_ptr<FlatMemory> memory = cuda_flat_memory(stream.ref());
  for (const WireFormat format : {WireFormat::kFloat32, WireFormat::kInt8}) {
    std::vector<std::vector<float>> found;
    for (const bool exchanged : {false, true}) {
      const std::shared_ptr<FlatMemory> messages = exchanged ? exchange_flat_memory(*gpus, memory) : memory;
      GradSyncOptions options{
          .reducer = {.exec = exec, .wire = {.format = format}, .staging = std::make_shared<WireStaging>(messages)}};
      if (exchanged) options.sums = memory_of(*gpus, layout.elems(), layout.elems());
      GradSync sync(*gpus, layout, memory, options);
      WireStaging staging(messages);
      const std::shared_ptr<float> values = memory->allocate(layout.elems());
      for (int step = 0; step < 3; ++step) {
        sync.start(2);
        for (int pass = 0; pass < 2; ++pass) {
          for (std::size_t b = 0; b < layout.buckets().size(); ++b) {
            const std::span<float> leaf = sync.leaf(static_cast<int>(b));
            upload(leaf.data(), random_leaf(gpus->rank() + 10 * pass + 100 * step, std::ssize(leaf)), stream.ref());
            sync.commit(static_cast<int>(b));
          }
          sync.end_pass();
        }
        for (const std::span<const float>& shard : sync.finish())
          found.push_back(download(shard.data(), std::ssize(shard), stream.ref()));
        upload(values.get(), random_leaf(gpus->rank() + step, layout.elems()), stream.ref());
        const std::vector<RowCodes> how(2, {.cols = cols, .bits = 8});
        const std::vector<int> buckets = {0};
        ValueGather(*gpus, layout, exec)
            .coded(buckets, how, {values.get(), static_cast<std::size_t>(layout.elems())}, staging);
        found.push_back(download(values.get(), layout.elems(), stream.ref()));
      }
    }
    const std::size_t half = found.size() / 2;
    for (std::size_t i = 0; i < half; ++i) EXPECT_EQ(compare_bits(found[i], found[half + i]), "equal") << i;
  }
}

// Recorded, not run: what a call puts on a stream. The last case, for a recording leaves NCCL's counters elsewhere.
TEST(ExchangeMemory, IsMovedWithoutAKernel) {
  const char* const peers = std::getenv("NCCL_P2P_DISABLE");  // NOLINT(concurrency-mt-unsafe)
  if (!has_copy_engines() || (peers != nullptr && std::string(peers) == "1")) GTEST_SKIP();
  const DeviceStream stream(Device::kCuda);
  auto* const handle = static_cast<cudaStream_t>(stream.ref().handle);
  const std::int64_t elems = 4096 * gpus->size();
  const std::shared_ptr<float> in = memory_of(*gpus, elems), out = memory_of(*gpus, elems);
  const std::shared_ptr<float> outside = cuda_flat_memory()->allocate(elems);
  const auto kernels_of = [&](float* from, float* to) {
    gpus->all_to_all(on_gpu(from, elems), on_gpu(to, elems), stream.ref());  // what is made at first is made now
    cuda_synchronize(stream.ref());
    QAT_CUDA_CHECK(cudaStreamBeginCapture(handle, cudaStreamCaptureModeRelaxed));
    gpus->all_to_all(on_gpu(from, elems), on_gpu(to, elems), stream.ref());
    cudaGraph_t graph = nullptr;
    QAT_CUDA_CHECK(cudaStreamEndCapture(handle, &graph));
    std::size_t count = 0;
    QAT_CUDA_CHECK(cudaGraphGetNodes(graph, nullptr, &count));
    std::vector<cudaGraphNode_t> nodes(count);
    QAT_CUDA_CHECK(cudaGraphGetNodes(graph, nodes.data(), &count));
    int kernels = 0;
    for (const cudaGraphNode_t node : nodes) {
      cudaGraphNodeType type{};
      QAT_CUDA_CHECK(cudaGraphNodeGetType(node, &type));
      kernels += type == cudaGraphNodeTypeKernel ? 1 : 0;
    }
    QAT_CUDA_CHECK(cudaGraphDestroy(graph));
    return kernels;
  };
  EXPECT_GT(kernels_of(in.get(), outside.get()), 0) << "of other memory";
  EXPECT_EQ(kernels_of(in.get(), out.get()), 0);
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
    gpus = nccl.get();
    return testing::run_rank_tests(session, &argc, argv, [](Communicator& mpi) { hosts = &mpi; });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d of %d: %s\n", session.rank(), session.size(), error.what());
    session.abort(1);
  }
}

}  // namespace
}  // namespace qat::dist

int main(int argc, char** argv) { return qat::dist::run(argc, argv); }

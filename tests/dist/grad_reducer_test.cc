// What GradReducer asks of its communicator; its sums are tested by communicator_cases.h.
#include "dist/grad/grad_reducer.h"

#include <gtest/gtest.h>

#include <vector>

#include "dist/comm/local_comm.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// Rank 1 of 2; notes where the buffers are and on which stream.
class Recorder final : public Communicator {
 public:
  int rank() const noexcept override { return 1; }
  int size() const noexcept override { return 2; }
  std::string backend() const override { return "recorder"; }
  void all_reduce(BufferView, ReduceOp, StreamRef) override { ADD_FAILURE(); }
  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef stream) override {
    EXPECT_EQ(static_cast<int>(op), static_cast<int>(ReduceOp::kSum));
    note(in, out, stream);
  }
  void all_gather(ConstBufferView in, BufferView out, StreamRef stream) override { note(out, in, stream); }
  void broadcast(BufferView, int, StreamRef) override { ADD_FAILURE(); }
  void all_to_all(ConstBufferView, BufferView, StreamRef) override { ADD_FAILURE(); }
  void exchange(std::span<const SendTo>, std::span<const ReceiveFrom>, StreamRef) override { ADD_FAILURE(); }
  void barrier() override {}
  std::unique_ptr<Communicator> split(int, int) override { return nullptr; }

  int calls = 0;
  ConstBufferView full, own;
  void* seen_stream = nullptr;

 private:
  void note(ConstBufferView full_in, ConstBufferView own_in, StreamRef stream) {
    ++calls;
    full = full_in;
    own = own_in;
    seen_stream = stream.handle;
  }
};

void expect_call(const Recorder& comm, int calls, const std::vector<float>& full, Device device, const void* stream) {
  EXPECT_EQ(comm.calls, calls);
  EXPECT_EQ(comm.full.data, full.data());
  EXPECT_EQ(comm.full.elems, 8);
  EXPECT_EQ(comm.own.data, full.data() + 4);
  EXPECT_EQ(comm.own.elems, 4);
  EXPECT_EQ(comm.full.device, device);
  EXPECT_EQ(comm.own.device, device);
  EXPECT_EQ(comm.full.dtype, DType::kFloat32);
  EXPECT_EQ(comm.seen_stream, stream);
}

TEST(GradReducer, PassesDeviceAndStreamOn) {
  std::vector<float> full(8);  // never read: the recorder only looks at addresses
  int stream = 0;
  Recorder comm;
  GradReducer reducer(comm, /*elems=*/8, {.exec = {.device = Device::kCuda, .stream = StreamRef{&stream}}});
  reducer.reduce_scatter(full);
  expect_call(comm, 1, full, Device::kCuda, &stream);
}

TEST(GradReducer, IsOnTheHostByDefault) {
  std::vector<float> full(8);
  Recorder comm;
  GradReducer reducer(comm, /*elems=*/8);
  reducer.reduce_scatter(full);
  expect_call(comm, 1, full, Device::kCpu, nullptr);
}

TEST(GradReducer, RefusesABufferThatRanksHaveNoEqualSharesOf) {
  Recorder comm;
  EXPECT_THROW(GradReducer(comm, /*elems=*/7), Error);
  std::vector<float> full(10);
  GradReducer reducer(comm, /*elems=*/8);
  EXPECT_THROW(reducer.reduce_scatter(full), Error);
  EXPECT_EQ(comm.calls, 0);
}

TEST(GradReducer, AloneItLeavesTheBufferAsItIs) {
  const std::unique_ptr<Communicator> comm = make_single_comm();
  GradReducer reducer(*comm, /*elems=*/4, {.exec = {.device = Device::kCuda}});
  std::vector<float> full{1.0F, 2.0F, 3.0F, 0.0F};
  const std::vector<float> before = full;
  reducer.reduce_scatter(full);
  EXPECT_EQ(full, before);
}

}  // namespace
}  // namespace qat::dist

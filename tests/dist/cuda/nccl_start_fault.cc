// NCCL that cannot start, on two ranks with a GPU each: all of them get the same AgreedError in time, with hints, keep
// their control communicator, and can leave although a thread of theirs may still be inside NCCL.
//   nccl_start_fault wrong_interface | missing_peer
// Exit code 0: all of that. With fewer GPUs it says so and tests nothing.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/comm/device_assignment.h"
#include "dist/comm/mpi_comm.h"
#include "dist/comm/mpi_session.h"
#include "dist/comm/nccl_comm.h"
#include "kernels/common/cuda_device.h"

namespace qat::dist {
namespace {

// A control communicator whose broadcasts reach rank 1 spoilt: given NCCL's address like that, it goes elsewhere, and
// rank 0 waits for a peer that does not come.
class Misdirected final : public Communicator {
 public:
  explicit Misdirected(std::unique_ptr<Communicator> inner) : inner_(std::move(inner)) {}
  int rank() const noexcept override { return inner_->rank(); }
  int size() const noexcept override { return inner_->size(); }
  std::string backend() const override { return inner_->backend(); }
  void all_reduce(BufferView data, ReduceOp op, StreamRef stream) override { inner_->all_reduce(data, op, stream); }
  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef stream) override {
    inner_->reduce_scatter(in, out, op, stream);
  }
  void all_gather(ConstBufferView in, BufferView out, StreamRef stream) override {
    inner_->all_gather(in, out, stream);
  }
  void broadcast(BufferView data, int root, StreamRef stream) override {
    inner_->broadcast(data, root, stream);
    constexpr std::int64_t kPort = 10;  // after an 8-byte magic number and the address family
    if (rank() == 1 && data.elems > kPort + 1) static_cast<std::uint8_t*>(data.data)[kPort + 1] ^= 0x55U;
  }
  void all_to_all(ConstBufferView in, BufferView out, StreamRef stream) override {
    inner_->all_to_all(in, out, stream);
  }
  void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef stream) override {
    inner_->exchange(sends, receives, stream);
  }
  void barrier() override { inner_->barrier(); }
  std::unique_ptr<Communicator> split(int color, int key) override { return inner_->split(color, key); }

 private:
  std::unique_ptr<Communicator> inner_;
};

bool contains(const std::string& text, const char* part) { return text.find(part) != std::string::npos; }

// What is wrong with how it ended; empty: nothing.
std::string complaint(std::unique_ptr<Communicator>&& control, bool wrong_interface) {
  constexpr double kMissingPeerSeconds = 5.0;
  NcclCommOptions options;
  if (!wrong_interface) options.start_seconds = kMissingPeerSeconds;
  const auto start = std::chrono::steady_clock::now();
  std::string message;
  try {
    (void)make_nccl_world(std::move(control), options);
    return "NCCL has started";
  } catch (const AgreedError& error) {
    if (error.kind() != ErrorKind::kCommunication) return std::string("another kind of error: ") + error.what();
    message = error.what();
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  if (seconds.count() > (wrong_interface ? 55.0 : kMissingPeerSeconds + 5.0))
    return "it took " + std::to_string(seconds.count()) + " s";
  for (const char* words : {"network interfaces here: ", "/dev/shm has", "NCCL_DEBUG=WARN"})
    if (!contains(message, words)) return std::string("no \"") + words + "\" in: " + message;
  if (wrong_interface && !contains(message, "\"nope0\", which names none of them"))
    return "no interface in: " + message;
  if (!wrong_interface && !contains(message, "not connected the GPUs within 5 s")) return "no limit in: " + message;
  if (control == nullptr) return "the control communicator is gone";
  control->barrier();
  return "";
}

int run(const std::string& fault, MpiSession& session) {
  std::unique_ptr<Communicator> control = make_mpi_world(session);
  std::vector<std::int32_t> devices{cuda_device_count()};
  control->all_reduce(view(devices), ReduceOp::kMin);
  if (devices[0] < session.size()) {
    if (session.rank() == 0) std::puts("nccl_start_fault needs a GPU for each rank: nothing was tested");
    return 0;
  }
  set_cuda_device(assign_local_devices(*control));
  if (fault == "missing_peer") control = std::make_unique<Misdirected>(std::move(control));
  const std::string wrong = complaint(std::move(control), fault == "wrong_interface");
  if (!wrong.empty()) std::fprintf(stderr, "rank %d: %s\n", session.rank(), wrong.c_str());
  session.leave(wrong.empty() ? 0 : 1);
}

}  // namespace
}  // namespace qat::dist

int main(int argc, char** argv) {
  const std::string fault = argc > 1 ? argv[1] : "";
  if (fault == "wrong_interface") {  // before any thread exists, and before NCCL looks
    setenv("NCCL_SOCKET_IFNAME", "nope0", 1);
    setenv("NCCL_P2P_DISABLE", "1", 1);
    setenv("NCCL_SHM_DISABLE", "1", 1);
  } else if (fault != "missing_peer") {
    std::fputs("usage: nccl_start_fault wrong_interface|missing_peer\n", stderr);
    return 2;
  }
  qat::dist::MpiSession session(&argc, &argv);
  return qat::dist::run(fault, session);
}

#include "dist/comm/nccl_start.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/comm/nccl_handle.h"
#include "dist/comm/start_hints.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/device_scratch.h"

namespace qat::dist {
namespace {

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
  const kernels::DeviceScratch<std::uint8_t> bytes({.device = Device::kCuda, .stream = stream}, 2 * std::int64_t{size});
  std::uint8_t* const out = bytes.get();
  std::uint8_t* const in = out + size;
  cuda_zero(out, 2 * static_cast<std::size_t>(size), stream);
  NcclGroup group;
  for (int peer = 0; peer < size; ++peer) {
    if (peer == rank) continue;
    QAT_NCCL_CHECK(ncclSend(out + peer, 1, ncclUint8, peer, comm, nullptr));
    QAT_NCCL_CHECK(ncclRecv(in + peer, 1, ncclUint8, peer, comm, nullptr));
  }
  group.end();
  QAT_NCCL_CHECK(ncclAllGather(out + rank, out, 1, ncclUint8, comm, nullptr));
  cuda_synchronize(stream);
}

// This rank's membership, on a thread of its own: NCCL waits without end for a peer that does not come, and what it has
// made by then can be neither used nor freed. (Its non-blocking mode could be aborted, but every later call would be
// one that may not have begun when it returns.)
std::future<ncclComm_t> start(const ncclUniqueId& id, int rank, int size) {
  int device = 0;
  QAT_CUDA_CHECK(cudaGetDevice(&device));
  std::packaged_task<ncclComm_t()> task([id, rank, size, device] {
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

ncclComm_t connect_gpus(Communicator& control, double start_seconds) {
  const ncclUniqueId id = agree_on_id(control);
  std::future<ncclComm_t> started = start(id, control.rank(), control.size());
  ncclComm_t comm = nullptr;
  RankReport report;
  if (started.wait_for(std::chrono::duration<double>(start_seconds)) != std::future_status::ready) {
    report = failed_start("NCCL has not connected the GPUs within " + std::to_string(std::lround(start_seconds)) +
                          " s; NCCL_DEBUG=WARN tells more");
  } else {
    try {
      comm = started.get();
    } catch (const Error& error) {
      report = failed_start(error.what());
    }
  }
  agree(control, report, "NCCL set-up");  // throws: what NCCL has made stays as it is, its peers are not there
  return comm;
}

}  // namespace qat::dist

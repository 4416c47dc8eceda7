#include "dist/comm/nccl_windows.h"

#include <algorithm>
#include <exception>
#include <string>
#include <vector>

#include "dist/comm/agree.h"
#include "dist/comm/device_assignment.h"
#include "dist/comm/nccl_handle.h"
#include "dist/comm/nccl_versions.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// NCCL_VERSION(2, 28, 0): the first that has all_to_all as a call of its own, and copy engines.
constexpr int kFirst = 22800;

[[maybe_unused]] bool on_all_ranks(Communicator& control, bool here) {
  std::vector<std::int32_t> fewest = {here ? 1 : 0};
  control.all_reduce(view(std::span(fewest)), ReduceOp::kMin);
  return fewest[0] != 0;
}

[[maybe_unused]] bool on_one_host(Communicator& control) {
  const std::vector<std::string> hosts = gather_strings(control, host_name());
  return std::all_of(hosts.begin(), hosts.end(), [&](const std::string& host) { return host == hosts[0]; });
}

}  // namespace

bool nccl_has_copy_engines() noexcept { return nccl_versions().built >= kFirst && nccl_versions().loaded >= kFirst; }

bool NcclWindows::hold(const void* data, std::size_t bytes) const {
  const auto* const begin = static_cast<const std::byte*>(data);
  auto found = bytes_.upper_bound(begin);
  if (found == bytes_.begin()) return false;
  --found;
  return begin + bytes <= found->first + found->second;
}

#if NCCL_VERSION_CODE >= 22800

std::shared_ptr<void> NcclWindows::allocate(Communicator& control, std::int64_t bytes) {
  QAT_CHECK(bytes > 0, "a window of no bytes");
  if (comm_ == nullptr) return nullptr;
  if (!asked_) one_host_ = on_all_ranks(control, nccl_has_copy_engines()) && on_one_host(control);
  asked_ = true;
  if (!one_host_) return nullptr;
  const auto size = static_cast<std::size_t>(bytes);
  void* data = nullptr;
  ncclWindow_t window = nullptr;
  // What is undone here was done by all ranks, or is this rank's alone: nobody waits in between.
  const auto give_back = [comm = comm_](void* memory, ncclWindow_t of) {
    if (of != nullptr) (void)ncclCommWindowDeregister(comm, of);
    if (memory != nullptr) (void)ncclMemFree(memory);
  };
  const bool has_room = ncclMemAlloc(&data, size) == ncclSuccess;
  if (!has_room) (void)cudaGetLastError();  // or the next call would report it again
  if (!on_all_ranks(control, has_room)) {
    give_back(data, window);
    return nullptr;
  }
  const ncclResult_t made = ncclCommWindowRegister(comm_, data, size, &window, NCCL_WIN_COLL_SYMMETRIC);
  if (!on_all_ranks(control, made == ncclSuccess && window != nullptr)) {
    give_back(data, window);
    return nullptr;
  }
  cuda_zero(data, size);
  cuda_synchronize();
  bytes_[static_cast<const std::byte*>(data)] = size;
  return {data, [this, window, give_back, exceptions = std::uncaught_exceptions()](void* memory) {
            bytes_.erase(static_cast<const std::byte*>(memory));
            // While an exception unwinds, a message may be awaited in here for ever: leave it to the process's end.
            if (std::uncaught_exceptions() > exceptions) return;
            (void)cudaDeviceSynchronize();
            give_back(memory, window);
          }};
}

void NcclWindows::all_to_all(const void* in, void* out, std::size_t bytes, cudaStream_t stream) const {
  QAT_NCCL_CHECK(ncclAlltoAll(in, out, bytes, ncclUint8, comm_, stream));
}

#else

std::shared_ptr<void> NcclWindows::allocate(Communicator& /*control*/, std::int64_t /*bytes*/) { return nullptr; }

void NcclWindows::all_to_all(const void* /*in*/, void* /*out*/, std::size_t /*bytes*/, cudaStream_t /*stream*/) const {
  QAT_CHECK(comm_ == nullptr || bytes_.empty(), "no window without NCCL 2.28");
}

#endif

}  // namespace qat::dist

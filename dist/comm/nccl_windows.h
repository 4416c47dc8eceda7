// Memory of a group's GPUs that reach each other inside one host, between which NCCL moves it by copy engines, not by
// kernels: its symmetric windows, in a group with the zero-CTA policy (NCCL 2.28). Internal to nccl_*.cc.
//
// NCCL decides on every rank by itself whether a call's buffers lie in windows, so they do on all ranks or on none, at
// the same offsets. Where NCCL knows windows but has no copy engines for a group (no peer access, no cuMem), the same
// calls go by kernels.
#pragma once

#include <nccl.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>

#include "dist/comm/communicator.h"

namespace qat::dist {

// Whether the NCCL that this program is built with, and the one that is loaded, have copy engines.
bool nccl_has_copy_engines() noexcept;

class NcclWindows {
 public:
  // comm: null for a group of one, which has none. It outlives this, and this all memory.
  explicit NcclWindows(ncclComm_t comm) : comm_(comm) {}
  NcclWindows(const NcclWindows&) = delete;

  // Collective, also over `control`, the same ranks: [bytes], more than 0, zeroed. Null on all ranks where they are not
  // all on one host, or where one of them cannot have it.
  std::shared_ptr<void> allocate(Communicator& control, std::int64_t bytes);

  bool hold(const void* data, std::size_t bytes) const;

  // Block r of `in` to rank r, block r of `out` from rank r, `bytes` each, all of it held.
  void all_to_all(const void* in, void* out, std::size_t bytes, cudaStream_t stream) const;

 private:
  ncclComm_t comm_;
  bool asked_ = false, one_host_ = false;
  std::map<const std::byte*, std::size_t> bytes_;  // by where they begin
};

}  // namespace qat::dist

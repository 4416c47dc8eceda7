// QAT_NCCL_CHECK and the owner of an ncclComm_t. Internal to nccl_*.cc.
#pragma once

#include <nccl.h>

#include <exception>
#include <utility>

namespace qat::dist {

// Throws Error(kCommunication), or kOutOfMemory if that is what NCCL lacks, with the call, the code's text, NCCL's last
// words and the place.
[[noreturn]] void throw_nccl_error(ncclResult_t code, const char* call, const char* file, int line);

}  // namespace qat::dist

// A macro only because it must quote the call and its place.
#define QAT_NCCL_CHECK(call)                                              \
  do {                                                                    \
    if (const ncclResult_t qat_code = (call); qat_code != ncclSuccess)    \
      ::qat::dist::throw_nccl_error(qat_code, #call, __FILE__, __LINE__); \
  } while (false)

namespace qat::dist {

// One rank's membership of a group, or none (a group of one needs no NCCL).
class NcclHandle {
 public:
  NcclHandle() = default;
  explicit NcclHandle(ncclComm_t comm) : comm_(comm) {}
  NcclHandle(NcclHandle&& other) noexcept
      : comm_(std::exchange(other.comm_, nullptr)), exceptions_at_birth_(other.exceptions_at_birth_) {}
  NcclHandle& operator=(NcclHandle&&) = delete;
  ~NcclHandle() {
    if (comm_ == nullptr) return;
    // While an exception unwinds, peers may never reach destroy, which waits for them; abort does not.
    const bool failing = std::uncaught_exceptions() > exceptions_at_birth_;
    (void)(failing ? ncclCommAbort(comm_) : ncclCommDestroy(comm_));
  }
  ncclComm_t get() const noexcept { return comm_; }

 private:
  ncclComm_t comm_ = nullptr;
  int exceptions_at_birth_ = std::uncaught_exceptions();
};

// Calls between its birth and end() are one NCCL operation. An exception in between closes the group too, or every
// later call of this thread would wait for its end.
class NcclGroup {
 public:
  NcclGroup() { QAT_NCCL_CHECK(ncclGroupStart()); }
  NcclGroup(const NcclGroup&) = delete;
  NcclGroup& operator=(const NcclGroup&) = delete;
  ~NcclGroup() {
    if (open_) (void)ncclGroupEnd();
  }
  void end() {
    open_ = false;
    QAT_NCCL_CHECK(ncclGroupEnd());
  }

 private:
  bool open_ = true;
};

}  // namespace qat::dist

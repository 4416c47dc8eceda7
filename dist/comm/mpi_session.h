// MPI from start to finish: make one in main, before anything that uses MPI; it must outlive every communicator.
//
// How a rank ends. Normally the destructor finalizes, which waits for the other ranks. A rank that fails alone must not
// go there, for the others wait for it in some collective: main catches inside the session's scope, prints, and calls
// abort(). An AgreedError (agree.h) is known to be thrown by all ranks: rank 0 prints, all return the exit code, and
// the session finalizes as usual. Of other failures all_arrive() tells whether every rank has one.
#pragma once

#include <string>

namespace qat::dist {

class MpiSession {
 public:
  // Throws Error(kCommunication) if MPI cannot start, is already started, cannot run beside other threads, or would
  // find too little shared memory; Error(kConfig) if srun has started this process without what MPI needs
  // (mpi_launcher.h).
  MpiSession(int* argc, char*** argv);
  // While an exception unwinds, peers may be dead or waiting elsewhere: then MPI is left as it is, and the launcher
  // ends the job when this process exits.
  ~MpiSession();
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const noexcept { return rank_; }
  int size() const noexcept { return size_; }
  int local_rank() const noexcept { return local_rank_; }  // among the ranks of this host
  int local_size() const noexcept { return local_size_; }
  const std::string& host_name() const noexcept { return host_name_; }

  // Whether all ranks call this within `seconds` of each other. Called where nothing else is under way; if it returns
  // false, MPI is of no more use but for abort().
  bool all_arrive(double seconds) const noexcept;

  // Ends this process in good order, waiting for the other ranks, but without any destructor: for when a thread that
  // cannot be ended is still inside some library. All ranks call it.
  [[noreturn]] void leave(int exit_code) const noexcept;

  // Ends all processes of the job, now; this does not return. What is to be printed must be printed and flushed before.
  [[noreturn]] void abort(int exit_code) const noexcept;

 private:
  int rank_ = 0;
  int size_ = 1;
  int local_rank_ = 0;
  int local_size_ = 1;
  std::string host_name_;
  int exceptions_at_birth_;
};

}  // namespace qat::dist

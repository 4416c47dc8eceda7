// The processes of this run and what each may use: found once, at start, and passed on as values.
#pragma once

#include <memory>
#include <string>

#include "dist/comm/communicator.h"
#include "dist/comm/mpi_session.h"
#include "dist/watch/watchdog.h"
#include "src/quant/compute_config.h"
#include "src/quant/torch_device.h"

namespace qat::launch {

class World {
 public:
  // Starts MPI.
  World(int* argc, char*** argv);
  ~World();

  dist::Communicator& comm() { return *comm_; }
  const dist::MpiSession& session() const { return session_; }
  int rank() const { return comm_->rank(); }
  int size() const { return comm_->size(); }
  bool is_root() const { return rank() == 0; }

  // CPU threads of one rank: `requested`, or this node's cores divided by the ranks on it, at least one, and never
  // more than the processor affinity allows. They run whole passes side by side; LibTorch itself is set to one thread,
  // so that how many there are changes no bit.
  int use_threads(int requested) const;

  // Where this run computes. With GPUs, every rank gets one of its own (Error(kConfig) on all ranks if there are too
  // few), and from then on comm() also moves GPU memory. Collective; once, before any tensor is made.
  ComputeMode use_device(const ComputeConfig& config);

  // What this rank is doing.
  dist::ProgressBoard& board() { return board_; }
  // From here on the ranks watch each other, until MPI has ended. Collective; once, before use_device.
  void watch(const dist::WatchdogOptions& options);
  dist::Watchdog* watchdog() { return watchdog_.get(); }  // null: nobody watches
  void stop_watching() { watchdog_.reset(); }

  // The batch system's number of this job (empty: none), and how often it has been requeued.
  static std::string job_id();
  static std::int64_t job_restarts();

 private:
  dist::ProgressBoard board_;
  std::unique_ptr<dist::Watchdog> watchdog_;  // outlives the session: a rank may hang while MPI ends
  dist::MpiSession session_;
  std::unique_ptr<dist::Communicator> comm_;
};

}  // namespace qat::launch

// What `qat_dist doctor` finds out on each rank. Plain values that travel to rank 0 as JSON; -1 and empty texts: not
// known, or there is no such thing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "src/base/json.h"

namespace qat {

struct RankFacts {
  // Who and where.
  std::int64_t rank = 0;
  std::string host;
  std::int64_t local_rank = 0, local_size = 1;  // among the ranks of the host

  // The build, and what it runs with.
  std::string version, build;  // build: a hash of the program's file
  std::string compiler, libtorch, mpi;
  std::int64_t cuda_runtime = -1, cuda_driver = -1;  // 13000: 13.0; -1: built without CUDA, no driver
  std::int64_t nccl_built = -1, nccl_loaded = -1;    // 22703: 2.27.3

  // CPUs and memory.
  std::int64_t cores = 0, allowed_cores = 0;  // of the host; of this process
  double load = -1.0;                         // of the host, mean of a minute
  std::int64_t memory_free = -1;              // main memory that this rank may take
  std::string memory_source;
  std::string shared_folder;  // through which ranks of a host pass messages; empty: they do not
  std::int64_t shared_free = -1, shared_needed = 0;
  std::int64_t open_files = -1, locked_memory = -1;  // ulimit -n, -l (bytes); -1: no limit
  std::string cpu_governor;                          // "performance", ...

  double clock_ahead_s = 0.0;  // of rank 0's clock
  double clock_error_s = 0.0;  // how far off that may be

  // The run folder, as this rank sees it.
  std::string folder, folder_type;  // file system: "nfs", "ext4", ...
  std::string folder_problem;       // what could not be done there
  std::int64_t folder_free = -1;
  double folder_sync_s = -1.0;  // one file written, flushed and renamed

  std::vector<std::string> interfaces;  // "eth0 10.77.0.1 10000 Mbit/s"

  // How it was started.
  std::string launcher;  // "srun --mpi=pmix", "mpirun", "none"
  std::string slurm_job;
  std::int64_t slurm_cpus_per_task = -1;
  std::vector<std::string> variables;  // that change how MPI and NCCL work: "NCCL_P2P_DISABLE=1"

  // The GPU, if this rank has one.
  std::int64_t gpus_seen = 0;  // -1: CPUs were asked for
  std::string gpu, gpu_id, gpu_problem;
  std::int64_t gpu_memory = -1, gpu_memory_free = -1;

  // Speed: of the GPU or, where there is none, of one core.
  double code_products = -1.0, float_products = -1.0;  // operations a second
  double copy_bytes = -1.0;                            // a second, read and written
  // What GPUs of this kind are known to reach.
  double known_code_products = -1.0, known_float_products = -1.0;
};

Value to_value(const RankFacts& facts);
// Throws Error(kInternal) for anything that to_value does not give.
RankFacts facts_of(const Value& value);

// Between ranks, over all of them.
struct LinkFacts {
  std::string backend;  // "mpi", "nccl"
  // Bytes a second that a rank sends in an exchange of gradients, sums included; -1: there is no such group.
  double node_bytes = -1.0, network_bytes = -1.0;
  double known_node_bytes = -1.0;  // what GPUs of this kind are known to reach
  struct Neighbours {
    std::int64_t from = 0, to = 0;
    bool same_host = true;
    double bytes = 0.0;      // a second, one way, while all neighbours do the same
    double latency_s = 0.0;  // of a message of 8 bytes
  };
  std::vector<Neighbours> ring;
};
Value to_value(const LinkFacts& links);

}  // namespace qat

// Whether the way in which Slurm has started this process lets MPI find the other ranks: asked before MPI starts, since
// Open MPI would end the process by itself, without a word of what to do.
#pragma once

#include <string>

namespace qat::dist {

// A task of `srun`, as its variables say.
struct SlurmTask {
  bool started_by_srun = false;  // by it, and not by an mpirun within it
  int tasks = 1;                 // of the step
  int task = 0;                  // this one's number
  bool pmix = false;             // srun --mpi=pmix
  bool pmi = false;              // srun --mpi=pmi2
};
SlurmTask slurm_task();

// Whether the MPI library that this program is linked with can use srun's older interface, PMI-1 or PMI-2. True where
// that cannot be seen.
bool mpi_speaks_pmi();

// What is wrong, and the way out; empty: nothing.
std::string launch_complaint(const SlurmTask& task, bool speaks_pmi);

// Throws Error(kConfig) with it in the first task. The others end at once with that exit code, and say nothing.
void require_process_manager();

// The name and version of the MPI library, on one line. Also before MPI has started.
std::string mpi_library();

}  // namespace qat::dist

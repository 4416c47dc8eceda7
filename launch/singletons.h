// Processes that a launcher started together but that do not see each other.
#pragma once

namespace qat::launch {

// Throws Error(kConfig) where training in a world of `world_size` would not be what the launcher's variables say that
// somebody wanted: several processes that do not form one MPI world, each of which would train alone, or one process in
// a Slurm job of several tasks. `mpirun -np 1` says that one process is wanted.
//
// pmix_rank: launcher_rank() from before MPI started, which changes what it reads.
void refuse_singletons(int world_size, int pmix_rank);

// This process's number as PMIx (Open MPI, srun --mpi=pmix) has set it; 0: the first, or not set.
int launcher_rank();

}  // namespace qat::launch

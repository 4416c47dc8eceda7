#include "launch/singletons.h"

#include <fmt/format.h>

#include <cstdlib>

#include "launch/refuse.h"

namespace qat::launch {
namespace {

// How many processes a launcher says it has started.
constexpr const char* kProcessCounts[] = {
    "OMPI_COMM_WORLD_SIZE",  // Open MPI's mpirun
    "PMI_SIZE",              // MPICH's and Intel's mpiexec, srun --mpi=pmi2
    "MV2_COMM_WORLD_SIZE",   // MVAPICH's mpirun_rsh
    "JSM_NAMESPACE_SIZE",    // jsrun
};

int number(const char* name) {           // 0: not set
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): read before any thread exists
  return text == nullptr ? 0 : std::atoi(text);
}

}  // namespace

int launcher_rank() { return number("PMIX_RANK"); }

void refuse_singletons(int world_size, int pmix_rank) {
  if (world_size != 1) return;
  for (const char* name : kProcessCounts) {
    const int processes = number(name);
    if (processes > 1)
      refuse(
          fmt::format("a launcher started {} processes ({}), but MPI sees a world of 1: every process would train "
                      "alone. The launcher belongs to another MPI than the one this program is linked with: start "
                      "with that one's `mpirun -np {}` (Open MPI), or under Slurm with `srun --mpi=pmix`; for a "
                      "single process on purpose, `mpirun -np 1`",
                      processes, name, processes));
    if (processes == 1) return;
  }
  if (pmix_rank > 0)
    refuse(
        fmt::format("a launcher started several processes (PMIX_RANK is {}), but MPI sees a world of 1: every process "
                    "would train alone. Start with the `mpirun` of the Open MPI that this program is linked with",
                    pmix_rank));
  // Slurm: a step's tasks have numbers, and know how many they are. A batch script, or a shell of salloc, is one
  // process with number 0 and knows only the tasks of its job.
  const int tasks = number("SLURM_NTASKS");
  const int step_tasks = number("SLURM_STEP_NUM_TASKS");
  if (step_tasks > 1 || (tasks > 1 && number("SLURM_PROCID") > 0))
    refuse(
        fmt::format("SLURM started {0} tasks but MPI sees a world of 1: every task would train alone. Start with "
                    "`srun --mpi=pmix` (see `srun --mpi=list`) or `mpirun -np {0}`; for a single process on "
                    "purpose, `srun -n 1` or `mpirun -np 1`",
                    step_tasks > 1 ? step_tasks : tasks));
  if (tasks > 1)
    refuse(
        fmt::format("this Slurm job has {0} tasks, and only this process would train. Start with `srun --mpi=pmix` "
                    "or `mpirun -np {0}`; for a single process on purpose, `mpirun -np 1`, or set SLURM_NTASKS=1",
                    tasks));
}

}  // namespace qat::launch

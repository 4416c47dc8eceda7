#include "dist/comm/mpi_launcher.h"

#include <dlfcn.h>
#include <mpi.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

const char* environment(const char* name) {
  return std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
}

int number(const char* name, int otherwise) {
  const char* const text = environment(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

}  // namespace

SlurmTask slurm_task() {
  SlurmTask task;
  task.started_by_srun = environment("SLURM_STEPID") != nullptr && environment("SLURM_PROCID") != nullptr &&
                         environment("OMPI_COMM_WORLD_SIZE") == nullptr;
  task.tasks = number("SLURM_STEP_NUM_TASKS", 1);
  task.task = number("SLURM_PROCID", 0);
  task.pmix = environment("PMIX_RANK") != nullptr;
  task.pmi = environment("PMI_RANK") != nullptr || environment("PMI_FD") != nullptr;
  return task;
}

bool mpi_speaks_pmi() {
  if (mpi_library().find("Open MPI") == std::string::npos) return true;
  Dl_info info{};
  if (dladdr(reinterpret_cast<void*>(&MPI_Init), &info) == 0 || info.dli_fname == nullptr) return true;
  std::error_code error;
  const std::filesystem::path folder = std::filesystem::canonical(info.dli_fname, error).parent_path();
  if (error) return true;
  bool seen = false;
  for (const char* place : {"openmpi3", "openmpi", "openmpi/lib/openmpi3", "openmpi/lib/openmpi"})
    for (const char* part : {"mca_pmix_s1.so", "mca_pmix_s2.so"}) {
      seen = seen || std::filesystem::is_directory(folder / place, error);
      if (std::filesystem::exists(folder / place / part, error)) return true;
    }
  return !seen;
}

std::string launch_complaint(const SlurmTask& task, bool speaks_pmi) {
  if (!task.started_by_srun || task.pmix || (task.pmi && speaks_pmi)) return "";
  const std::string tasks = std::to_string(task.tasks);
  return "SLURM started " + tasks + (task.tasks == 1 ? " task" : " tasks") +
         " with `srun --mpi=" + (task.pmi ? "pmi2" : "none") + "`, through which this program's MPI (" + mpi_library() +
         ") finds no other ranks. Start with `srun --mpi=pmix` (`srun --mpi=list` says what there is; MpiDefault=pmix "
         "in "
         "slurm.conf makes it the default), or with `mpirun -np " +
         tasks + "` inside `salloc` or a batch script";
}

void require_process_manager() {
  const SlurmTask task = slurm_task();
  if (!task.started_by_srun || task.pmix) return;
  const std::string complaint = launch_complaint(task, mpi_speaks_pmi());
  if (complaint.empty()) return;
  // srun lets the tasks of a failed step go on, so they would all say the same.
  if (task.task != 0) std::_Exit(static_cast<int>(ErrorKind::kConfig));
  throw Error(ErrorKind::kConfig, complaint);
}

std::string mpi_library() {
  std::array<char, MPI_MAX_LIBRARY_VERSION_STRING> text{};
  int length = 0;
  if (MPI_Get_library_version(text.data(), &length) != MPI_SUCCESS) return "unknown";
  const std::string all(text.data(), static_cast<std::size_t>(length));
  // "Open MPI v4.1.4, package: Debian OpenMPI, ident: ..."; MPICH's has several lines.
  return all.substr(0, all.find_first_of(",\n"));
}

}  // namespace qat::dist

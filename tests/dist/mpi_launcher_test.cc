#include "dist/comm/mpi_launcher.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace qat::dist {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(MpiLauncher, OnlySrunWithoutAWayToTheOtherRanksIsRefused) {
  EXPECT_EQ(launch_complaint({}, /*speaks_pmi=*/false), "");  // no Slurm, or an mpirun within it
  EXPECT_EQ(launch_complaint({.started_by_srun = true, .tasks = 4, .pmix = true}, false), "");
  EXPECT_EQ(launch_complaint({.started_by_srun = true, .tasks = 4, .pmi = true}, /*speaks_pmi=*/true), "");
  EXPECT_THAT(launch_complaint({.started_by_srun = true, .tasks = 4, .pmi = true}, false),
              AllOf(HasSubstr("4 tasks"), HasSubstr("srun --mpi=pmi2"), HasSubstr("srun --mpi=pmix"),
                    HasSubstr("mpirun -np 4")));
  EXPECT_THAT(launch_complaint({.started_by_srun = true, .tasks = 1}, true),
              AllOf(HasSubstr("1 task "), HasSubstr("--mpi=none")));
}

TEST(MpiLauncher, ReadsSlurmsVariables) {
  setenv("SLURM_STEPID", "0", 1);
  setenv("SLURM_PROCID", "2", 1);
  setenv("SLURM_STEP_NUM_TASKS", "4", 1);
  setenv("PMI_RANK", "2", 1);
  unsetenv("OMPI_COMM_WORLD_SIZE");
  unsetenv("PMIX_RANK");
  SlurmTask task = slurm_task();
  EXPECT_TRUE(task.started_by_srun);
  EXPECT_EQ(task.tasks, 4);
  EXPECT_EQ(task.task, 2);
  EXPECT_TRUE(task.pmi);
  EXPECT_FALSE(task.pmix);
  setenv("OMPI_COMM_WORLD_SIZE", "4", 1);  // mpirun, started by a task of srun
  EXPECT_FALSE(slurm_task().started_by_srun);
  for (const char* name : {"SLURM_STEPID", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "PMI_RANK", "OMPI_COMM_WORLD_SIZE"})
    unsetenv(name);
}

TEST(MpiLauncher, TheLibraryHasANameAndAVersion) {
  EXPECT_THAT(mpi_library(), ::testing::MatchesRegex(".*[0-9]+\\.[0-9]+.*"));
  EXPECT_EQ(mpi_library().find('\n'), std::string::npos);
}

}  // namespace
}  // namespace qat::dist

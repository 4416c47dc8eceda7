// How processes were started: launchers that make no world of them, and memory that ranks share.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Launchers : public Cli {
 protected:
  std::string short_run(const std::string& dir) const {
    return tiny(dir, "--set train.steps=2 --set precision.cycles=1");
  }
};

TEST_F(Launchers, SeparateProcessesAreRefusedWithTheirNumber) {
  for (const std::string variables :
       {"SLURM_NTASKS=8 SLURM_PROCID=3", "SLURM_NTASKS=8 SLURM_PROCID=0 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=8"}) {
    const Outcome run = shell(variables + " " + program() + short_run("run"));
    EXPECT_EQ(run.exit_code, 2) << run.text;
    EXPECT_THAT(run.text, AllOf(HasSubstr("8 tasks"), HasSubstr("srun --mpi=pmix"), HasSubstr("mpirun -np 8")));
  }
  for (const std::string name : {"PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"}) {
    const Outcome run = shell(name + "=4 " + program() + short_run("run"));
    EXPECT_EQ(run.exit_code, 2) << run.text;
    EXPECT_THAT(run.text, AllOf(HasSubstr("4 processes"), HasSubstr(name), HasSubstr("mpirun -np 4")));
  }
  const Outcome pmix = shell("PMIX_RANK=2 " + program() + short_run("run"));
  EXPECT_EQ(pmix.exit_code, 2) << pmix.text;
  EXPECT_FALSE(fs::exists(root_ / "run"));
}

// Before the first build, for example.
TEST_F(Launchers, AProgramThatIsNotThereIsSaidInOneLine) {
  for (const std::string program : {"build/no_such_program", "no_such_program", "/etc"}) {
    const Outcome run = shell(quote(source_ + "/launch/run_local.sh") + " -n 2 " + program + " --config x");
    EXPECT_EQ(run.exit_code, 2) << run.text;
    EXPECT_THAT(run.text, HasSubstr("run_local.sh: " + program + ": no such program"));
    EXPECT_EQ(count(run.text, "\n"), 1U) << run.text;
  }
}

TEST_F(Launchers, OneProcessInAJobOfSeveralTasksTrainsOnlyOnPurpose) {
  const std::string script = "SLURM_NTASKS=8 SLURM_PROCID=0 ";  // as in a batch script
  const Outcome alone = shell(script + program() + short_run("run"));
  EXPECT_EQ(alone.exit_code, 2);
  EXPECT_THAT(alone.text, AllOf(HasSubstr("this Slurm job has 8 tasks"), HasSubstr("SLURM_NTASKS=1")));
  EXPECT_EQ(shell(script + on_ranks(1) + short_run("purpose")).exit_code, 0);
  EXPECT_EQ(shell(script + on_ranks(2) + short_run("two")).exit_code, 0);
  EXPECT_EQ(shell("SLURM_NTASKS=1 SLURM_PROCID=0 " + program() + short_run("one")).exit_code, 0);
}

TEST_F(Launchers, WhatDoesNotTrainIsNeverRefused) {
  ASSERT_EQ(shell(program() + short_run("run")).exit_code, 0);
  const std::string text = quote(write("text.txt", "some text"));
  const std::string eval = " eval --bits 8 --checkpoint " + quote((root_ / "run").string());
  for (const std::string& command :
       {"PMI_SIZE=8 " + program() + eval, "SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8 " + program() + eval,
        "SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8 PMI_SIZE=8 " + program() + tiny("none", "--print-config"),
        "SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8 PMI_SIZE=8 " + program() + " schema",
        "SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8 PMI_SIZE=8 " + program() + " tokenize " + text +
            " --val-fraction 0 --output " + quote((root_ / "t").string())}) {
    const Outcome outcome = shell(command);
    EXPECT_EQ(outcome.exit_code, 0) << command << ":\n" << outcome.text;
  }
}

TEST_F(Launchers, TooLittleSharedMemoryIsSaidBeforeMpiStarts) {
  const Outcome run =
      shell("OMPI_MCA_btl_vader_segment_size=1099511627776 OMPI_MCA_btl_sm_segment_size=1099511627776 " + on_ranks(2) +
            short_run("run"));
  EXPECT_EQ(run.exit_code, 6) << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("/dev/shm has"), HasSubstr("2 ranks on this host need 2097152 MiB"),
                              HasSubstr("--shm-size"), HasSubstr("--mca btl self,tcp")));
  EXPECT_EQ(count(run.text, "communication"), 1U) << run.text;
}

// The same with a file system as small as some containers have.
TEST_F(Launchers, ATinySharedMemoryFolderEndsWithExitCodeSix) {
  if (shell("unshare -m true").exit_code != 0) GTEST_SKIP() << "mount namespaces are not allowed here";
  const auto on_tiny = [&](const std::string& size, const std::string& command) {
    return shell("unshare -m --propagation private sh -c " +
                 quote("mount -t tmpfs -o size=" + size + " tmpfs /dev/shm && exec " + command));
  };
  const Outcome tiny = on_tiny("64k", on_ranks(4) + short_run("run"));
  EXPECT_EQ(tiny.exit_code, 6) << tiny.text;
  EXPECT_THAT(tiny.text, HasSubstr("/dev/shm has 64 KiB free, and 4 ranks on this host need 16 MiB"));
  EXPECT_THAT(tiny.text, Not(HasSubstr("MPI_INIT has failed")));
  EXPECT_EQ(on_tiny("17m", on_ranks(4) + short_run("enough")).exit_code, 0);
  EXPECT_EQ(on_tiny("64k", program() + short_run("alone")).exit_code, 0) << "one rank shares nothing";
}

}  // namespace
}  // namespace qat::cli

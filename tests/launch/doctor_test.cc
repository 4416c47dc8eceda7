// `qat_dist doctor`: what it says of the machine that tests run on.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Doctor : public Cli {
 protected:
  std::string doctor(const std::string& more = "") const {
    return program() + " doctor --cpu --dir " + quote(root_.string()) + " " + more;
  }
};

TEST_F(Doctor, LooksAtOneProcess) {
  const Outcome outcome = shell(doctor());
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text,
              AllOf(HasSubstr("1 rank on 1 host, started by hand"), HasSubstr("LibTorch 2."),
                    HasSubstr("products on int8 codes"), HasSubstr("locks work"), HasSubstr("not measured: one rank"),
                    HasSubstr("0 faults"), Not(HasSubstr("none is seen"))));
  EXPECT_LE(count(outcome.text, "\n"), 40U);
}

TEST_F(Doctor, ComparesTheRanksOfAJobAndSavesRatesThatAPlanReads) {
  const std::string rates = (root_ / "rates.json").string();
  const Outcome outcome =
      shell(on_ranks(2) + " doctor --cpu --dir " + quote(root_.string()) + " --save " + quote(rates));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("2 ranks on 1 host, started by mpirun"),
                                  HasSubstr("exchange of gradients in a node (mpi)"),
                                  HasSubstr("point to point in a node"), HasSubstr("rates: ")));
  const Outcome plan = shell(program() + " plan --ranks 2 --rates " + quote(rates) + tiny("run"));
  EXPECT_EQ(plan.exit_code, 0) << plan.text;
  EXPECT_THAT(plan.text, AllOf(HasSubstr("measured on "), Not(HasSubstr("assumed"))));
}

TEST_F(Doctor, AFolderThatCannotBeWrittenIsAFaultWithItsFix) {
  const Outcome outcome = shell(program() + " doctor --cpu --json --dir /proc/nowhere");
  EXPECT_EQ(outcome.exit_code, 9) << outcome.text;
  EXPECT_THAT(outcome.text,
              AllOf(HasSubstr("\"healthy\": false"), HasSubstr("\"level\": \"fault\""),
                    HasSubstr("/proc: cannot make a file there"), HasSubstr("\"fix\": \"a run.dir on a file system")));
}

// As in a fresh copy, where no run has made it.
TEST_F(Doctor, AFolderThatARunWouldMakeIsNoFault) {
  const Outcome outcome = shell(program() + " doctor --cpu --dir " + quote((root_ / "runs" / "a").string()));
  EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr(root_.string()), HasSubstr("locks work")));
  EXPECT_FALSE(fs::exists(root_ / "runs"));
}

}  // namespace
}  // namespace qat::cli

// Gradients that travel as codes, as a user asks for them.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Wire : public Cli {
 protected:
  // tiny_cpu.json with 4-bit gradients, in run folder `name`.
  std::string train(int ranks, const std::string& name, const std::string& more = "") const {
    return on_ranks(ranks) + tiny(name, " --set comm.wire=int4 --set comm.ranks_per_node=" + std::to_string(ranks / 2) +
                                            " --set checkpoint.every=10 --set checkpoint.keep=0" + more);
  }
  // Losses from the step on, one a line.
  std::string losses(const std::string& name, int from) const {
    std::ifstream metrics(root_ / name / "metrics.jsonl");
    std::string all, line;
    for (int step = 0; std::getline(metrics, line); ++step)
      if (step >= from) all += line.substr(0, line.find(",\"lr\"")) + "\n";
    return all;
  }
};

TEST_F(Wire, ARunGoesOnFromItsCheckpointOnAsManyRanksAndOnOthers) {
  const Outcome whole = shell(train(4, "whole"));
  ASSERT_EQ(whole.exit_code, 0) << whole.text;
  EXPECT_THAT(whole.text, AllOf(HasSubstr("gradients travel as int4 codes in blocks of 256 (code_sum), error feedback; "
                                          "2 nodes of 2 ranks"),
                                HasSubstr("differs by 0."), HasSubstr("bits depend on the number of ranks")));
  EXPECT_THAT(content(root_ / "whole/metrics.jsonl"), HasSubstr("\"wire\":{\"bytes\":"));
  EXPECT_THAT(content(root_ / "whole/report.md"), HasSubstr("MiB an update from each rank"));

  const std::string resume = " --set run.resume=" + quote((root_ / "whole/checkpoints/step_00000010").string());
  const Outcome rest = shell(train(4, "rest", resume));
  ASSERT_EQ(rest.exit_code, 0) << rest.text;
  EXPECT_EQ(losses("rest", 0), losses("whole", 10));
  EXPECT_EQ(count(losses("rest", 0), "loss"), 10U);

  const Outcome fewer = shell(train(2, "fewer", resume));
  ASSERT_EQ(fewer.exit_code, 0) << fewer.text;
  EXPECT_THAT(fewer.text, AllOf(HasSubstr("the checkpoint is of 4 ranks"), Not(HasSubstr("feedback is dropped"))));
  const Outcome exact = shell(train(4, "exact", resume + " --set comm.wire=fp32"));
  ASSERT_EQ(exact.exit_code, 0) << exact.text;
  EXPECT_THAT(exact.text, HasSubstr("error feedback is dropped"));
}

TEST_F(Wire, AFirstSumThatIsTooFarOffEndsTheRunWithNine) {
  const Outcome run = shell(train(2, "run", " --set comm.self_check=0.01"));
  EXPECT_EQ(run.exit_code, 9) << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("more than comm.self_check = 0.01"), HasSubstr("comm.block")));
}

TEST_F(Wire, NodesThatDoNotDivideTheRanksAreRefused) {
  const Outcome run = shell(on_ranks(4) + tiny("run", " --set comm.ranks_per_node=3"));
  EXPECT_EQ(run.exit_code, 2) << run.text;
  EXPECT_THAT(run.text, HasSubstr("comm.ranks_per_node = 3: must divide the data-parallel ranks, 4; nearest: 2 or 4"));
}

}  // namespace
}  // namespace qat::cli

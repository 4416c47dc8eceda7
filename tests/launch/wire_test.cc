// Gradients that travel as codes, as a user asks for them.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Wire : public Cli {
 protected:
  // What a run says of comm.wire: auto; one line.
  static std::string choice(const std::string& text) {
    const std::size_t begin = text.find("comm.wire is auto");
    return begin == std::string::npos ? "" : text.substr(begin, text.find('\n', begin) - begin);
  }
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

TEST_F(Wire, AutoTakesTheExactWireForFewGradientsAndSaysNothingOfOneRank) {
  const Outcome two =
      shell(on_ranks(2) + tiny("two", " --set comm.wire=auto --set train.steps=4 --set precision.cycles=1"));
  ASSERT_EQ(two.exit_code, 0) << two.text;
  EXPECT_EQ(choice(two.text), "comm.wire is auto: fp32, for these are few gradients");
  EXPECT_THAT(two.text, HasSubstr("gradients travel as fp32"));
  const Outcome one = shell(program() + tiny("one", " --set train.steps=4 --set precision.cycles=1"));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  EXPECT_EQ(choice(one.text), "");
}

TEST_F(Wire, AutoMeasuresLinksUnlessCpusShareMemory) {
  const std::string larger =
      " --set model.n_embd=256 --set model.n_layer=2 --set train.steps=2 --set precision.cycles=1";
  const Outcome near = shell(on_ranks(2) + tiny("near", larger));
  ASSERT_EQ(near.exit_code, 0) << near.text;
  EXPECT_EQ(choice(near.text), "comm.wire is auto: fp32, for ranks on the CPUs of one host share its memory");
  const Outcome nodes = shell(on_ranks(2) + tiny("nodes", larger + " --set comm.ranks_per_node=1"));
  ASSERT_EQ(nodes.exit_code, 0) << nodes.text;
  EXPECT_THAT(choice(nodes.text),
              AllOf(HasSubstr("comm.wire is auto: "), HasSubstr("exchanged in fp32"), HasSubstr("B/s between nodes"),
                    HasSubstr(" as int8"), HasSubstr("1.5 times"), Not(HasSubstr(" 0.00 ms as"))));
}

TEST_F(Wire, AutoGoesOnWithTheCheckpointsWire) {
  const Outcome whole = shell(train(2, "whole"));
  ASSERT_EQ(whole.exit_code, 0) << whole.text;
  const std::string resume =
      " --set run.resume=" + quote((root_ / "whole/checkpoints/step_00000010").string()) + " --set comm.wire=auto";
  const Outcome rest = shell(train(2, "rest", resume));
  ASSERT_EQ(rest.exit_code, 0) << rest.text;
  EXPECT_EQ(choice(rest.text), "comm.wire is auto: int4, as the checkpoint has it; set comm.wire to choose otherwise");
  EXPECT_EQ(losses("rest", 0), losses("whole", 10));
  // By way of a rank alone, which sends nothing.
  const Outcome alone = shell(train(1, "alone", resume + " --set train.steps=12"));
  ASSERT_EQ(alone.exit_code, 0) << alone.text;
  const Outcome again = shell(train(2, "alone", " --set comm.wire=auto"));
  ASSERT_EQ(again.exit_code, 0) << again.text;
  EXPECT_THAT(choice(again.text), HasSubstr("int4, as the checkpoint has it"));
}

TEST_F(Wire, NodesThatDoNotDivideTheRanksAreRefused) {
  const Outcome run = shell(on_ranks(4) + tiny("run", " --set comm.ranks_per_node=3"));
  EXPECT_EQ(run.exit_code, 2) << run.text;
  EXPECT_THAT(run.text, HasSubstr("comm.ranks_per_node = 3: must divide the data-parallel ranks, 4; nearest: 2 or 4"));
}

}  // namespace
}  // namespace qat::cli

// `qat_dist plan`: a run on paper.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Plan : public Cli {
 protected:
  std::string plan(const std::string& more) const {
    return program() + " plan --config " + quote(source_ + "/configs/cpt.json") + " " + more;
  }
  // The number behind a JSON key.
  static double number(const std::string& text, const std::string& key) {
    const std::size_t at = text.find("\"" + key + "\": ");
    return at == std::string::npos ? -1.0 : std::atof(text.c_str() + at + key.size() + 4);
  }
};

TEST_F(Plan, SaysOnAScreenWhatARunTakesAndStartsNothing) {
  const auto begin = std::chrono::steady_clock::now();
  const Outcome plan = shell(this->plan("--ranks 8 --nodes 2 --gpu h200"));
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  EXPECT_EQ(plan.exit_code, 0) << plan.text;
  EXPECT_THAT(plan.text, AllOf(HasSubstr("8 ranks, 4 on each of 2 nodes"), HasSubstr("activations"),
                               HasSubstr("tokens/s"), HasSubstr("checkpoints"), HasSubstr("fits         yes")));
  EXPECT_LE(count(plan.text, "\n"), 60U);
  EXPECT_LT(took.count(), 5.0);  // a second, where nothing else runs
}

TEST_F(Plan, WhatDoesNotFitEndsWithItsExitCodeAndTheWayOut) {
  const Outcome plan = shell(this->plan("--ranks 2 --gpu A10 --set model.preset=gpt2-xl"));
  EXPECT_EQ(plan.exit_code, 5) << plan.text;
  EXPECT_THAT(plan.text, AllOf(HasSubstr("fits         NO"), HasSubstr("would fit")));
}

TEST_F(Plan, BadInputIsRefusedWithTheWayOut) {
  const auto refused = [&](const std::string& arguments, const std::string& part) {
    const Outcome plan = shell(this->plan(arguments));
    EXPECT_EQ(plan.exit_code, 2) << plan.text;
    EXPECT_THAT(plan.text, HasSubstr(part));
  };
  refused("--ranks 4 --gpu X9", "--gpu X9: not a GPU that plans know: ");
  refused("--ranks 4 --nodes 3 --gpu H100", "--nodes 3: must divide --ranks 4");
  refused("--ranks 5 --gpu H100", "does not fit 5 ranks");
  refused("--ranks 4 --set train.stepz=3", "train.stepz");
  refused("--ranks 4 --set compute.device=cuda", "say which GPU with --gpu");
  refused("--ranks 4 --rates nowhere.json", "nowhere.json");
  refused("--ranks 8 --nodes 2 --gpu H100 --network 0,5", "--network 0,5: expected GB/s above 0");
  refused("--ranks 8 --nodes 2 --gpu H100 --link 100,-1", "microseconds of at least 0");
  refused("--ranks 8 --gpu H100 --measured-step 0", "--measured-step");
  refused("", "--ranks");
}

TEST_F(Plan, StartsFromWhatWasMeasuredAndAGivenNetwork) {
  const std::string arguments = "--ranks 16 --nodes 2 --gpu H200 --set train.micro_batch_size=4 --measured-step 12";
  const Outcome said = shell(this->plan(arguments + " --network 25,10"));
  EXPECT_EQ(said.exit_code, 0) << said.text;
  EXPECT_THAT(said.text, AllOf(HasSubstr("scaled to a measured step of 12 ms"),
                               HasSubstr("25.0GB/s and 10.0 us a rank between nodes"), HasSubstr("behind backward")));
  const Outcome slow = shell(this->plan(arguments + " --network 1,10 --json"));
  const Outcome fast = shell(this->plan(arguments + " --network 100,10 --json"));
  EXPECT_GT(number(slow.text, "exchange_seconds"), 2.0 * number(fast.text, "exchange_seconds"));
  EXPECT_NEAR(number(fast.text, "passes_seconds"), 0.012, 0.0015);  // the rest is the optimizer's, which 16 share
}

// What is foretold and what a run then writes.
TEST_F(Plan, TheCheckpointHasTheSizeThatWasForetold) {
  const std::string settings = tiny("run", "--set train.steps=4 --set precision.cycles=1 --set checkpoint.every=2");
  ASSERT_EQ(shell(on_ranks(2) + settings).exit_code, 0);
  std::uintmax_t bytes = 0;
  for (const auto& file : fs::recursive_directory_iterator(root_ / "run" / "checkpoints" / "step_00000004"))
    if (file.is_regular_file()) bytes += fs::file_size(file);
  const Outcome plan = shell(program() + " plan --json --ranks 2 " + settings);
  EXPECT_EQ(plan.exit_code, 0) << plan.text;
  EXPECT_NEAR(number(plan.text, "checkpoint_bytes") / static_cast<double>(bytes), 1.0, 0.25);  // headers count here
  EXPECT_THAT(plan.text, HasSubstr("\"fits\": true"));
}

// On two levels, where sums of codes travel wider than the codes. How buckets are filled up is not in the plan.
TEST_F(Plan, TheBytesOfAnExchangeAreThoseThatWereForetold) {
  const std::string settings =
      tiny("run",
           "--set model.preset=micro --set train.steps=2 --set train.batch_size=4 --set precision.kind=constant --set "
           "comm.wire=int8 --set comm.ranks_per_node=2 --set parallel.threads_per_rank=1 --set eval.max_tokens=64");
  const Outcome run = shell(on_ranks(4) + settings);
  ASSERT_EQ(run.exit_code, 0) << run.text;
  const std::string metrics = content(root_ / "run" / "metrics.jsonl");
  const std::string wire = metrics.substr(metrics.rfind("\"wire\":"));
  const auto counted = [&](const std::string& key) {
    const std::size_t at = wire.find("\"" + key + "\":");
    return at == std::string::npos ? -1.0 : std::atof(wire.c_str() + at + key.size() + 3);
  };
  const Outcome plan = shell(program() + " plan --json --ranks 4 " + settings);
  ASSERT_EQ(plan.exit_code, 0) << plan.text;
  EXPECT_NEAR(number(plan.text, "gradient_bytes") / counted("bytes"), 1.0, 0.08);
  EXPECT_NEAR(number(plan.text, "weight_bytes") / counted("weight_bytes"), 1.0, 0.08);
}

}  // namespace
}  // namespace qat::cli

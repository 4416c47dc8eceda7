// A run that does not fit into memory: said before it begins, and again when memory has run out.
#include <cctype>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Memory : public Cli {
 protected:
  void SetUp() override {
    Cli::SetUp();
    if (shell(limited(0) + program() + " --version").exit_code != 0)
      GTEST_SKIP() << "this program's libraries (LibTorch with CUDA) take more addresses than these limits leave";
  }
  // A small model whose one pass keeps some 300 MiB.
  std::string heavy(const std::string& dir) const {
    return tiny(dir,
                "--set model.n_layer=8 --set model.n_embd=64 --set model.n_head=2 --set model.n_positions=128 "
                "--set data.sequence_length=128 --set train.micro_batch_size=64 --set train.batch_size=64 "
                "--set train.steps=1 --set lr.warmup_steps=0 --set precision.kind=constant --set precision.max_bits=32 "
                "--set eval.max_tokens=300 --set eval.bits=[32] --set parallel.threads_per_rank=1");
  }
  // Where a process's address space ends: what the program takes before it has a model, and `more` beyond it.
  static std::string limited(std::int64_t more_mib) {
    const std::int64_t program_mib = 1500;
    return "ulimit -v " + std::to_string((program_mib + more_mib) * 1024) + "; ";
  }
  // "1.25 GiB" or "640.00 MiB" after `words`, in MiB; 0 if it is not there.
  static double mib_after(const std::string& text, const std::string& words) {
    const std::size_t at = text.find(words);
    if (at == std::string::npos) return 0.0;
    char* unit = nullptr;
    const double number = std::strtod(text.c_str() + at + words.size(), &unit);
    return std::string_view(unit).starts_with(" GiB") ? 1024.0 * number : number;
  }
  static void expect_documented(const Outcome& run) {
    EXPECT_EQ(run.exit_code, 5) << run.text;
    // Before: one warning, from one rank.
    EXPECT_EQ(count(run.text, "warning: this run may run out of memory"), 1U) << run.text;
    EXPECT_THAT(run.text, AllOf(HasSubstr("ulimit -v"), HasSubstr("activations"),
                                HasSubstr("each of these changes alone would fit"),
                                HasSubstr("train.micro_batch_size="), HasSubstr("compute.recompute=block: about")));
    // When it has run out: who, how much, of how much, for what, and what to do.
    EXPECT_THAT(run.text,
                AllOf(HasSubstr("exit 5, out of memory"), HasSubstr("out of memory: rank "), HasSubstr("asked for "),
                      HasSubstr("when it began, it had "), HasSubstr("estimated memory of a rank: about ")));
    EXPECT_THAT(run.text, Not(HasSubstr("internal error")));
    EXPECT_THAT(run.text, Not(HasSubstr("Exception raised from"))) << "a stack of C++ frames";
  }
};

TEST_F(Memory, ARunThatDoesNotFitIsWarnedOfAndEndsWithFive) {
  expect_documented(shell(limited(180) + program() + heavy("one")));
}

TEST_F(Memory, AndOnTwoRanks) {
  expect_documented(shell(limited(180) + on_ranks(2) + heavy("two") + " --set train.batch_size=128"));
}

TEST_F(Memory, WhatRunsOutInAThreadOrInBackwardIsSaidTheSameWay) {
  for (const int more : {60, 180}) {
    const Outcome run = shell(limited(more) + program() + heavy("threads " + std::to_string(more)) +
                              " --set parallel.threads_per_rank=2");
    EXPECT_EQ(run.exit_code, 5) << more << " MiB: " << run.text;
    EXPECT_THAT(run.text, HasSubstr("out of memory: rank 0")) << more;
  }
}

TEST_F(Memory, TheChangesThatAreOfferedFit) {
  const Outcome failed = shell(limited(180) + program() + heavy("failed"));
  ASSERT_EQ(failed.exit_code, 5) << failed.text;
  std::vector<std::string> changes;
  std::istringstream lines(failed.text);
  for (std::string line; std::getline(lines, line) && changes.size() < 3;) {
    const std::size_t end = line.find(": about ");
    if (line.starts_with("  ") && end != std::string::npos && line.find('=') < end)
      changes.push_back(line.substr(2, end - 2));
  }
  ASSERT_EQ(changes.size(), 3U) << failed.text;
  for (std::size_t i = 0; i < changes.size(); ++i) {
    std::string sets;
    std::istringstream words(changes[i]);
    for (std::string word; words >> word;) sets += " --set " + quote(word);
    const Outcome run = shell(limited(180) + program() + heavy("change " + std::to_string(i)) + sets);
    EXPECT_EQ(run.exit_code, 0) << changes[i] << "\n" << run.text;
  }
}

TEST_F(Memory, TheEstimateIsNearWhatARunTakesAndThereIsNoWarningWhereItFits) {
  const Outcome run = shell(program() + heavy("fits"));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("memory of a rank: about "), Not(HasSubstr("may run out"))));
  const double expected = mib_after(run.text, "memory of a rank: about "),
               taken = mib_after(run.text, "memory at most, on a rank: ");
  EXPECT_GT(taken, 300.0) << run.text;
  EXPECT_NEAR(expected / taken, 1.0, 0.2) << run.text;
}

TEST_F(Memory, AnEvaluationThatRunsOutSaysWhatWouldHelpIt) {
  ASSERT_EQ(shell(program() + tiny("run", "--set train.steps=4 --set precision.cycles=1 --set model.n_positions=1024"))
                .exit_code,
            0);
  const Outcome run = shell(limited(100) + program() + " eval --checkpoint " + quote((root_ / "run").string()) +
                            " --set data.sequence_length=1024 --set eval.batch_size=2048 --set eval.max_tokens=0");
  EXPECT_EQ(run.exit_code, 5) << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("in evaluation"), HasSubstr("eval.batch_size="),
                              Not(HasSubstr("train.micro_batch_size="))));
}

}  // namespace
}  // namespace qat::cli

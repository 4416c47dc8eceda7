#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

// ---- what works

TEST_F(Cli, TrainsOnFourRanksAndTheCheckpointReproducesTheTable) {
  const Outcome run = shell(on_ranks(4) + tiny("run"));
  ASSERT_EQ(run.exit_code, 0) << run.text;
  for (const char* file :
       {"config.json", "metrics.jsonl", "report.md", "report.json", "logs/rank_000.log", "logs/rank_003.log"})
    EXPECT_TRUE(fs::exists(root_ / "run" / file)) << file;
  EXPECT_EQ(count(run.text, "Perplexity"), 1U) << "one table, from one rank:\n" << run.text;
  const Outcome eval = shell(program() + " eval --checkpoint " + quote((root_ / "run").string()));
  ASSERT_EQ(eval.exit_code, 0) << eval.text;
  std::istringstream lines(eval.text);
  for (std::string line; std::getline(lines, line);)
    if (line.starts_with("|")) {
      EXPECT_THAT(run.text, HasSubstr(line));
    }
  EXPECT_GE(count(eval.text, "\n|"), 3U);

  // The second start costs nothing and shows the same table.
  const Outcome again = shell(on_ranks(4) + tiny("run"));
  EXPECT_EQ(again.exit_code, 0) << again.text;
  EXPECT_THAT(again.text, HasSubstr("finished"));
}

TEST_F(Cli, TheCurveDoesNotDependOnThreadsUmaskOrLocale) {
  ASSERT_EQ(shell("OMP_NUM_THREADS=1 " + program() + tiny("one", "--set parallel.threads_per_rank=1")).exit_code, 0);
  const auto expected = losses("one");
  ASSERT_GE(expected.size(), 10U);
  const Outcome two = shell("umask 077; OMP_NUM_THREADS=64 LC_ALL=de_DE.UTF-8 " + on_ranks(2) +
                            tiny("two", "--set parallel.threads_per_rank=2"));
  ASSERT_EQ(two.exit_code, 0) << two.text;
  EXPECT_EQ(losses("two"), expected);
}

TEST_F(Cli, ATerminatedRunSavesAndGoesOnAsIfNothingHadHappened) {
  ASSERT_EQ(shell(program() + tiny("whole", "--set train.steps=60")).exit_code, 0);
  const std::string part = on_ranks(2) + tiny("part", "--set train.steps=60");
  Outcome stopped{};
  std::thread runner([&] { stopped = shell(part); });
  EXPECT_TRUE(wait_for([&] { return losses("part").size() > 10; }));
  // To one rank alone.
  const pid_t rank0 = locked_by("part");
  ASSERT_GT(rank0, 0);
  kill(rank0, SIGTERM);
  runner.join();
  EXPECT_EQ(stopped.exit_code, 75) << stopped.text;
  ASSERT_LT(losses("part").size(), 60U);
  const Outcome resumed = shell(part);
  ASSERT_EQ(resumed.exit_code, 0) << resumed.text;
  EXPECT_EQ(losses("part"), losses("whole"));
}

TEST_F(Cli, TokenizedTextOfOnesOwnTrains) {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "the quick brown fox number " + std::to_string(i) + " jumps; ";
  const std::string input = write("my text.txt", text);
  const std::string prefix = (root_ / "tok").string();
  const Outcome made = shell(program() + " tokenize " + quote(input) + " --output " + quote(prefix));
  ASSERT_EQ(made.exit_code, 0) << made.text;
  const Outcome run = shell(program() + tiny("own", "--set train.steps=4 --set precision.cycles=1 --set data.train=" +
                                                        quote("[\"" + prefix + "_train_*.bin\"]") +
                                                        " --set data.val=" + quote("[\"" + prefix + "_val.bin\"]")));
  EXPECT_EQ(run.exit_code, 0) << run.text;
}

// ---- what is wrong is said once, clearly, and before anything runs

TEST_F(Cli, AnUnknownKeyIsNamedWithItsLineAndTheNearestOne) {
  const std::string file = write("bad.json", "{\n  \"version\": 1,\n  \"optim\": {\"weight_decai\": 0.1}\n}\n");
  const Outcome run = shell(on_ranks(2) + " --config " + quote(file));
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.text, AllOf(HasSubstr("bad.json:3"), HasSubstr("weight_decai"), HasSubstr("weight_decay")));
  EXPECT_EQ(count(run.text, "weight_decai"), 1U) << run.text;
}

TEST_F(Cli, AllWrongValuesAreReportedAtOnce) {
  const std::string file = write("bad.json", R"({
  "version": 1,
  "quant": {"widths": [1, 8]},
  "train": {"steps": "8"},
  "precision": {"cycles": 0, "min_bits": 8, "max_bits": 4},
  "lr": {"warmup_steps": 5000},
  "model": {"n_embd": 100, "n_head": 3}
})");
  const Outcome run = shell(program() + " --config " + quote(file));
  EXPECT_EQ(run.exit_code, 2);
  for (const char* key : {"quant.widths", "train.steps", "precision.cycles"}) EXPECT_THAT(run.text, HasSubstr(key));
  const std::string rules = write("rules.json", R"({
  "version": 1,
  "precision": {"min_bits": 8, "max_bits": 4},
  "lr": {"warmup_steps": 5000},
  "model": {"n_embd": 100, "n_head": 3}
})");
  const Outcome cross = shell(program() + " --config " + quote(rules));
  EXPECT_EQ(cross.exit_code, 2);
  for (const char* key : {"precision.m", "lr.warmup_steps", "model.n_"}) EXPECT_THAT(cross.text, HasSubstr(key));
}

TEST_F(Cli, ABatchThatDoesNotDivideOverTheRanksNamesTheNearestThatDoes) {
  const Outcome run = shell(on_ranks(3) + tiny("run"));
  EXPECT_EQ(run.exit_code, 2);
  EXPECT_THAT(run.text, HasSubstr("train.batch_size"));
  EXPECT_EQ(shell(program() + tiny("run", "--set parallel.data=4")).exit_code, 2);
  EXPECT_EQ(shell(program() + tiny("run", "--set parallel.pipeline=2")).exit_code, 2);
}

TEST_F(Cli, RanksWithDifferentConfigurationsAreNamed) {
  const std::string a = tiny("run"), b = tiny("run", "--set run.seed=99");
  const Outcome run = shell("mpirun --allow-run-as-root --oversubscribe --bind-to none -np 1 " + program() + a +
                            " : -np 1 " + program() + b);
  EXPECT_EQ(run.exit_code, 2) << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("configuration"), HasSubstr("rank 1")));
}

TEST_F(Cli, BadTokenFilesAreNamedWithWhatWasExpected) {
  const auto with = [&](const std::string& file, int ranks = 1) {
    return shell((ranks == 1 ? program() : on_ranks(ranks)) +
                 tiny("run", "--set data.train=" + quote("[\"" + file + "\"]")));
  };
  const Outcome missing = with((root_ / "none.bin").string(), 2);
  EXPECT_EQ(missing.exit_code, 3);
  EXPECT_THAT(missing.text, HasSubstr("none.bin"));
  EXPECT_EQ(count(missing.text, "none.bin"), 1U) << missing.text;
  EXPECT_EQ(with(write("empty.bin", "")).exit_code, 3);
  EXPECT_EQ(with(write("noise.bin", std::string(3000, 'x'))).exit_code, 3);

  std::vector<std::int32_t> header(256);
  header[0] = 20240520, header[1] = 1, header[2] = 500;
  std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
  std::vector<std::uint16_t> tokens(500, 5);
  tokens[321] = 60000;
  const Outcome truncated = with(write("short.bin", bytes + std::string(100, 'a')));
  EXPECT_EQ(truncated.exit_code, 3);
  EXPECT_THAT(truncated.text, HasSubstr("short.bin"));
  const Outcome beyond =
      with(write("beyond.bin", bytes + std::string(reinterpret_cast<const char*>(tokens.data()), 1000)));
  EXPECT_EQ(beyond.exit_code, 3);
  EXPECT_THAT(beyond.text,
              AllOf(HasSubstr("beyond.bin"), HasSubstr("60000"), HasSubstr(std::to_string(1024 + 2 * 321))));
  EXPECT_FALSE(fs::exists(root_ / "run/metrics.jsonl"));
}

TEST_F(Cli, AFolderThatCannotBeWrittenIsSaidAtOnce) {
  const std::string file = write("file", "");
  const Outcome run = shell(on_ranks(2) + tiny("file/run"));
  EXPECT_EQ(run.exit_code, 2) << run.text;
  EXPECT_THAT(run.text, AllOf(HasSubstr("run.dir"), HasSubstr("file")));
}

TEST_F(Cli, TwoJobsOnOneRunFolderAreRefusedAndAStaleLockIsNot) {
  const std::string slow = program() + tiny("run", "--set train.steps=100000");
  Outcome first{};
  std::thread runner([&] { first = shell(slow); });
  EXPECT_TRUE(wait_for([&] { return fs::exists(root_ / "run/metrics.jsonl"); }));
  const Outcome second = shell(slow);
  EXPECT_EQ(second.exit_code, 2);
  const pid_t pid = locked_by("run");
  EXPECT_THAT(second.text, HasSubstr(std::to_string(pid)));
  kill(pid, SIGKILL);
  runner.join();
  const Outcome third = shell(program() + tiny("run", "--set train.steps=4 --set precision.cycles=1"));
  EXPECT_EQ(third.exit_code, 0) << third.text;
}

TEST_F(Cli, ACheckpointThatIsNotThereOrDamagedIsSaid) {
  const Outcome none = shell(program() + " eval --checkpoint " + quote((root_ / "nothing").string()));
  EXPECT_EQ(none.exit_code, 4) << none.text;
  EXPECT_THAT(none.text, HasSubstr("nothing"));
  ASSERT_EQ(shell(program() + tiny("run", "--set train.steps=4 --set precision.cycles=1")).exit_code, 0);
  fs::path file;
  for (const auto& entry : fs::recursive_directory_iterator(root_ / "run/checkpoints"))
    if (entry.path().filename() == "checkpoint.h5") file = entry.path();
  std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
  stream.seekp(static_cast<std::streamoff>(fs::file_size(file)) / 2);
  stream.put('\x5a').put('\x5a').put('\x5a');
  stream.close();
  const Outcome damaged = shell(program() + " eval --checkpoint " + quote((root_ / "run").string()));
  EXPECT_EQ(damaged.exit_code, 4) << damaged.text;
}

TEST_F(Cli, WrongArgumentsExitWithTwoAndHelpWithZero) {
  EXPECT_EQ(shell(program() + " --no-such-option").exit_code, 2);
  EXPECT_EQ(shell(program() + " eval").exit_code, 2);
  EXPECT_EQ(shell(program() + " --config " + quote((root_ / "none.json").string())).exit_code, 2);
  // As by "$CONFIG" where no such variable is: not the default of the option.
  for (const char* empty : {" --config ''", " train --config ''", " eval --checkpoint ''",
                            " plan --ranks 1 --config ''", " report ''", " generate '' --prompt a"}) {
    const Outcome refused = shell("cd " + quote(root_.string()) + " && " + program() + empty);
    EXPECT_EQ(refused.exit_code, 2) << empty << ": " << refused.text;
    EXPECT_THAT(refused.text, HasSubstr("is empty: give it a value, or leave it out")) << empty;
  }
  // One message, whatever the number of ranks.
  EXPECT_EQ(count(shell(on_ranks(3) + " --no-such-option").text, "--no-such-option"), 1U);
  EXPECT_EQ(count(shell(on_ranks(3) + " --help").text, "Exit codes"), 1U);
  const Outcome help = shell(program() + " --help");
  EXPECT_EQ(help.exit_code, 0);
  EXPECT_THAT(help.text, AllOf(HasSubstr("tokenize"), HasSubstr("eval"), HasSubstr("Exit codes")));
  const Outcome schema = shell(program() + " schema");
  EXPECT_THAT(schema.text, HasSubstr("\"$schema\""));
  const Outcome shown = shell(program() + tiny("run", "--print-config"));
  EXPECT_EQ(shown.exit_code, 0);
  EXPECT_THAT(shown.text, AllOf(HasSubstr("train.steps"), HasSubstr("--set"), HasSubstr("default")));
}

}  // namespace
}  // namespace qat::cli

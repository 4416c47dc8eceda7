// Token files as users have them: changed between runs or under way, named twice, of another tokenizer, too short.
#include <cstdint>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Data : public Cli {
 protected:
  // A token file of random ids below `ids`.
  std::string shard(const std::string& name, std::uint32_t seed, int tokens = 3000, std::uint32_t ids = 256) const {
    std::vector<std::int32_t> header(256);
    header[0] = 20240520, header[1] = 1, header[2] = tokens;
    std::string bytes(reinterpret_cast<const char*>(header.data()), 1024);
    for (int i = 0; i < tokens; ++i) {
      seed = seed * 1664525 + 1013904223;
      const std::uint32_t id = (seed >> 12) % ids;
      bytes += static_cast<char>(id & 0xFF);
      bytes += static_cast<char>(id >> 8);
    }
    fs::create_directories((root_ / name).parent_path());
    return write(name, bytes);
  }
  // `key` naming these files, as options.
  static std::string names(const std::string& key, const std::vector<std::string>& files) {
    std::string list;
    for (const std::string& file : files) list += (list.empty() ? "\"" : ", \"") + file + "\"";
    return " --set " + quote(key + "=[" + list + "]");
  }
  // The tiny run over these files, in few steps.
  std::string run(const std::string& dir, const std::vector<std::string>& files, int steps,
                  const std::string& more = "") const {
    return tiny(dir,
                "--set precision.cycles=1 --set lr.warmup_steps=0 --set checkpoint.every=2 --set eval.bits=[8] --set "
                "eval.max_tokens=300 --set train.steps=" +
                    std::to_string(steps) + names("data.train", files) + more);
  }
  std::string all(const std::string& folder) const { return (root_ / folder / "*.bin").string(); }
};

TEST_F(Data, OtherTrainingFilesOnResumeAreRefusedWithWhatChanged) {
  shard("d/s_000.bin", 1);
  ASSERT_EQ(shell(on_ranks(2) + run("run", {all("d")}, 4)).exit_code, 0);
  const std::string again = on_ranks(2) + run("run", {all("d")}, 6);

  shard("d/s_001.bin", 2);
  const Outcome added = shell(again);
  EXPECT_EQ(added.exit_code, 3) << added.text;
  EXPECT_THAT(added.text, AllOf(HasSubstr("data.train"), HasSubstr("s_001.bin is new (3000 tokens"),
                                HasSubstr("data.allow_change")));
  EXPECT_EQ(count(added.text, "s_001.bin"), 1U) << "one message, from one rank:\n" << added.text;

  fs::remove(root_ / "d/s_001.bin");
  shard("d/s_000.bin", 3);  // the same name and size
  const Outcome replaced = shell(again);
  EXPECT_EQ(replaced.exit_code, 3) << replaced.text;
  EXPECT_THAT(replaced.text, HasSubstr("s_000.bin has other content: 3000 tokens"));

  // Elsewhere, and called otherwise, they are the same tokens.
  shard("d/s_000.bin", 1);
  fs::create_directories(root_ / "moved");
  fs::rename(root_ / "d/s_000.bin", root_ / "moved/t.bin");
  const Outcome moved = shell(on_ranks(2) + run("run", {all("moved")}, 6));
  EXPECT_EQ(moved.exit_code, 0) << moved.text;
  EXPECT_THAT(moved.text, AllOf(HasSubstr("resuming after step 4"), Not(HasSubstr("other content"))));
}

TEST_F(Data, OtherTrainingFilesAreAllowedByAKeyAndSaid) {
  const std::string a = shard("a.bin", 1), b = shard("b.bin", 2);
  ASSERT_EQ(shell(program() + run("run", {a, b}, 4)).exit_code, 0);
  const Outcome order = shell(program() + run("run", {b, a}, 6));
  EXPECT_EQ(order.exit_code, 3) << order.text;
  EXPECT_THAT(order.text, HasSubstr("a.bin stands before b.bin in the checkpoint, and after it now"));
  const Outcome allowed = shell(program() + run("run", {b, a}, 6, " --set data.allow_change=true"));
  EXPECT_EQ(allowed.exit_code, 0) << allowed.text;
  EXPECT_THAT(allowed.text, AllOf(HasSubstr("warning: data.train is not what the checkpoint was trained on"),
                                  HasSubstr("the order is another"), HasSubstr("resuming after step 4")));
  // The next checkpoints hold the new order.
  EXPECT_EQ(shell(program() + run("run", {b, a}, 8)).exit_code, 0);
}

TEST_F(Data, OtherHeldOutFilesAreSaid) {
  const std::string a = shard("a.bin", 1), v = shard("v.bin", 2, 500);
  ASSERT_EQ(shell(program() + run("run", {a}, 4, names("data.val", {v}))).exit_code, 0);
  shard("v.bin", 3, 500);
  const Outcome resumed = shell(program() + run("run", {a}, 6, names("data.val", {v})));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.text;
  EXPECT_THAT(resumed.text, AllOf(HasSubstr("warning: data.val is not what it was"), HasSubstr("v.bin"),
                                  HasSubstr("cannot be compared")));
  const std::string eval = program() + " eval --checkpoint " + quote((root_ / "run").string());
  EXPECT_THAT(shell(eval).text, Not(HasSubstr("warning")));
  shard("v.bin", 4, 500);
  const Outcome evaluated = shell(eval);
  EXPECT_EQ(evaluated.exit_code, 0);
  EXPECT_THAT(evaluated.text, HasSubstr("warning: data.val is not what it was"));
  EXPECT_THAT(shell(eval + names("data.val", {v})).text, Not(HasSubstr("warning"))) << "asked for";
}

TEST_F(Data, RanksThatSeeOtherFilesAreNamed) {
  shard("0/a.bin", 1), shard("1/a.bin", 2);
  const std::string part = " " + program() + run("run", {"a.bin"}, 4);
  const auto from = [&](const std::string& a, const std::string& b) {
    return shell("mpirun --allow-run-as-root --oversubscribe --bind-to none -np 1 -wdir " +
                 quote((root_ / a).string()) + part + " : -np 1 -wdir " + quote((root_ / b).string()) + part);
  };
  const Outcome differ = from("0", "1");
  EXPECT_EQ(differ.exit_code, 3) << differ.text;
  EXPECT_THAT(differ.text, AllOf(HasSubstr("training tokens are not the same on all ranks: rank 1 differs from rank 0"),
                                 HasSubstr("a.bin has other content")));
  EXPECT_EQ(count(differ.text, "a.bin"), 1U) << differ.text;
  EXPECT_FALSE(fs::exists(root_ / "run"));
  // A copy of the same tokens is as good.
  shard("1/a.bin", 1);
  const Outcome same = from("0", "1");
  EXPECT_EQ(same.exit_code, 0) << same.text;
}

TEST_F(Data, AFileThatIsCutShortUnderWayEndsTheRunWithItsName) {
  const std::string file = shard("a.bin", 1, 20000);
  Outcome outcome{};
  std::thread runner([&] { outcome = shell(on_ranks(2) + run("run", {file}, 100000)); });
  EXPECT_TRUE(wait_for([&] { return losses("run").size() > 5; }));
  fs::resize_file(file, 1100);
  runner.join();
  EXPECT_EQ(outcome.exit_code, 3) << outcome.text;
  EXPECT_THAT(outcome.text,
              AllOf(HasSubstr("a.bin"), HasSubstr("changed while it was in use: it has 1100 bytes and had 41024"),
                    HasSubstr("last step"), HasSubstr("checkpoints/step_"), HasSubstr("next:")));
  EXPECT_EQ(count(outcome.text, "changed while"), 1U) << "one message, from one rank:\n" << outcome.text;
}

TEST_F(Data, AFileThatIsOverwrittenUnderWayEndsTheRunAndATouchedOneDoesNot) {
  const std::string file = shard("a.bin", 1, 20000);
  Outcome outcome{};
  std::thread runner([&] { outcome = shell(program() + run("run", {file}, 100000)); });
  EXPECT_TRUE(wait_for([&] { return losses("run").size() > 5; }));
  fs::last_write_time(file, fs::file_time_type::clock::now() + std::chrono::seconds(3));
  const std::size_t steps = losses("run").size();
  EXPECT_TRUE(wait_for([&] { return losses("run").size() > steps + 5; }));
  const std::string other = content(shard("b.bin", 2, 20000));
  std::fstream(file, std::ios::in | std::ios::out | std::ios::binary) << other;  // in place
  runner.join();
  EXPECT_EQ(outcome.exit_code, 3) << outcome.text;
  EXPECT_THAT(outcome.text, AllOf(HasSubstr("a.bin"), HasSubstr("it holds other tokens")));
}

TEST_F(Data, AFileThatIsReplacedUnderWayIsReadOnAndNoticedByTheResume) {
  const std::string file = shard("a.bin", 1, 20000);
  Outcome stopped{};
  std::thread runner([&] { stopped = shell(program() + run("run", {file}, 100000)); });
  EXPECT_TRUE(wait_for([&] { return losses("run").size() > 5; }));
  fs::rename(shard("b.bin", 2, 20000), file);
  const std::size_t steps = losses("run").size();
  EXPECT_TRUE(wait_for([&] { return losses("run").size() > steps + 5; }));
  kill(locked_by("run"), SIGTERM);
  runner.join();
  EXPECT_EQ(stopped.exit_code, 75) << stopped.text;
  const Outcome resumed = shell(program() + run("run", {file}, 100000));
  EXPECT_EQ(resumed.exit_code, 3) << resumed.text;
  EXPECT_THAT(resumed.text, HasSubstr("a.bin has other content"));
}

TEST_F(Data, AFileInBothSplitsIsFoundBehindALink) {
  const std::string file = shard("a.bin", 1);
  fs::create_symlink("a.bin", root_ / "link.bin");
  const std::string link = (root_ / "link.bin").string();
  const Outcome both = shell(program() + run("run", {file}, 2, names("data.val", {link})));
  EXPECT_EQ(both.exit_code, 0) << both.text;
  EXPECT_THAT(both.text, AllOf(HasSubstr("warning: data.val has " + link), HasSubstr("too good")));
  const Outcome twice = shell(program() + run("run", {file, link}, 2));
  EXPECT_EQ(twice.exit_code, 3) << twice.text;
  EXPECT_THAT(twice.text, HasSubstr("link.bin is the same file as " + file));
}

TEST_F(Data, HeldOutTextOfAnotherTokenizerIsRefusedBeforeTraining) {
  const std::string gpt2 = shard("gpt2.bin", 1, 3000, 50257);
  const std::string vocabulary = " --set model.vocab_size=50257";
  const Outcome by_default = shell(on_ranks(2) + run("run", {gpt2}, 2, vocabulary));
  EXPECT_EQ(by_default.exit_code, 2) << by_default.text;
  EXPECT_THAT(by_default.text, AllOf(HasSubstr("data.val is [\"builtin\"]"), HasSubstr("Set data.val")));
  EXPECT_EQ(count(by_default.text, "data.val is"), 1U) << by_default.text;
  const Outcome other_way = shell(program() + run("run", {"builtin"}, 2, vocabulary + names("data.val", {gpt2})));
  EXPECT_EQ(other_way.exit_code, 2) << other_way.text;
  EXPECT_THAT(other_way.text, AllOf(HasSubstr("data.train is [\"builtin\"]"), HasSubstr("data.val")));
  EXPECT_FALSE(fs::exists(root_ / "run"));
  // A model of such tokens is not scored on bytes later either.
  const std::string val = shard("val.bin", 2, 500, 50257);
  ASSERT_EQ(shell(program() + run("run", {gpt2}, 2, vocabulary + names("data.val", {val}))).exit_code, 0);
  const Outcome eval =
      shell(program() + " eval --checkpoint " + quote((root_ / "run").string()) + names("data.val", {"builtin"}));
  EXPECT_EQ(eval.exit_code, 2) << eval.text;
  EXPECT_THAT(eval.text, HasSubstr("data.val is [\"builtin\"]"));
  // Bytes go together.
  EXPECT_EQ(shell(program() + run("bytes", {shard("bytes.bin", 3)}, 2)).exit_code, 0);
}

TEST_F(Data, WhatIsTooShortIsSaidOnceBeforeTraining) {
  const std::string a = shard("a.bin", 1), one = shard("one.bin", 2, 1), short_text = shard("short.bin", 3, 20);
  const auto refused = [&](const std::string& options, const std::vector<std::string>& files, int exit_code,
                           const std::string& words, int ranks = 1) {
    const Outcome outcome = shell((ranks == 1 ? program() : on_ranks(ranks)) + run("run", files, 4, options));
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.text;
    EXPECT_EQ(count(outcome.text, words), 1U) << words << ":\n" << outcome.text;
    EXPECT_FALSE(fs::exists(root_ / "run"));
  };
  refused(names("data.val", {one}), {a}, 3, "has 1 token to read", 2);
  refused("", {short_text}, 3, "too little text: a sample needs 33 tokens");
  refused(" --set precision.unit=epoch --set precision.cycles=3", {a}, 2, "1 epoch is too few for one");
  refused(" --set eval.max_tokens=1", {a}, 2, "eval.max_tokens = 1", 2);
  const Outcome run_on_a = shell(program() + run("ok", {a}, 2));
  ASSERT_EQ(run_on_a.exit_code, 0) << run_on_a.text;
  const Outcome eval =
      shell(on_ranks(2) + " eval --checkpoint " + quote((root_ / "ok").string()) + names("data.val", {one}));
  EXPECT_EQ(eval.exit_code, 3) << eval.text;
  EXPECT_EQ(count(eval.text, "has 1 token to read"), 1U) << eval.text;
}

TEST_F(Data, ThereMayBeMoreShardsThanOpenFilesByDefault) {
  for (int i = 0; i < 120; ++i) shard("d/" + std::to_string(i) + ".bin", static_cast<std::uint32_t>(i), 100);
  const Outcome run_on_all = shell("ulimit -Sn 100; " + program() + run("run", {all("d")}, 2));
  EXPECT_EQ(run_on_all.exit_code, 0) << run_on_all.text;
  EXPECT_THAT(run_on_all.text, HasSubstr("12000 training tokens"));
}

}  // namespace
}  // namespace qat::cli

// The three doors to a checkpoint, as a user comes through them: `eval`, a resumed run and model.init_from.
#include <set>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

constexpr const char* kShort = "--set train.steps=4 --set precision.cycles=1 --set eval.max_tokens=300";
constexpr const char* kCalibrated =
    "--set quant.activation.granularity=tensor --set quant.activation.range=calibrated --set "
    "quant.calibration_batches=3";

class Eval : public Cli {
 protected:
  void train(const std::string& dir, const std::string& more, int ranks = 1) const {
    const Outcome run = shell((ranks == 1 ? program() : on_ranks(ranks)) + tiny(dir, more));
    ASSERT_EQ(run.exit_code, 0) << run.text;
  }
  Outcome eval(const std::string& path, const std::string& more = "") const {
    return shell(program() + " eval --checkpoint " + quote((root_ / path).string()) + " " + more);
  }
  // Overwrites some bytes in the middle.
  void damage(const fs::path& file) const {
    std::fstream stream(root_ / file, std::ios::in | std::ios::out | std::ios::binary);
    ASSERT_TRUE(stream.good()) << file;
    stream.seekp(static_cast<std::streamoff>(fs::file_size(root_ / file)) / 2);
    stream << "damage";
  }
  // The table's rows, headings included.
  static std::vector<std::string> rows(const std::string& text) {
    std::vector<std::string> out;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);)
      if (line.starts_with("|")) out.push_back(line);
    return out;
  }
  // Shards with something to learn, and a held-out one.
  std::string own_tokens() const {
    std::string text;
    for (int i = 0; i < 2000; ++i) text += "the quick brown fox number " + std::to_string(i) + " jumps; ";
    const std::string prefix = (root_ / "tok").string();
    const Outcome made =
        shell(program() + " tokenize " + quote(write("my text.txt", text)) + " --output " + quote(prefix));
    EXPECT_EQ(made.exit_code, 0) << made.text;
    return " --set data.train=" + quote("[\"" + prefix + "_train_000.bin\"]") +
           " --set data.val=" + quote("[\"" + prefix + "_val.bin\"]");
  }
};

// ---- what is evaluated, and where it goes

TEST_F(Eval, TheOutputFolderIsMadeBeforeTheWorkAndARefusalCostsNone) {
  train("run", kShort);
  const fs::path out = root_ / "new" / "folder";
  const Outcome made = eval("run", "--bits 32 --output " + quote(out.string()));
  EXPECT_EQ(made.exit_code, 0) << made.text;
  EXPECT_THAT(content(out / "report.md"), HasSubstr("Held-out perplexity"));
  EXPECT_THAT(content(out / "report.json"), HasSubstr("\"bit_width\": 32"));
  // Held-out text that is not there would be found next: the folder is the first thing.
  const std::string file = write("file", "");
  const Outcome refused =
      eval("run", "--set data.val='[\"none.bin\"]' --output " + quote((root_ / "file" / "folder").string()));
  EXPECT_EQ(refused.exit_code, 2) << refused.text;
  EXPECT_THAT(refused.text, AllOf(HasSubstr("--output"), HasSubstr(file), Not(HasSubstr("none.bin"))));
}

// Widths that training never used (2 bits), and that it used at some step or other.
TEST_F(Eval, ACheckpointAloneGivesTheFinalTableOfACalibratedRun) {
  const std::string tokens = own_tokens();
  train("run", std::string(kCalibrated) + " --set quant.widths=[2,4,6,8,32] --set eval.bits=[32,8,4,2]" + tokens, 2);
  fs::remove(root_ / "tok_train_000.bin");
  const Outcome got = eval("run", "--output " + quote((root_ / "out").string()));
  ASSERT_EQ(got.exit_code, 0) << got.text;
  const auto table = rows(content(root_ / "run/report.md"));
  EXPECT_GE(table.size(), 6U);
  const std::string again = content(root_ / "out/report.md");
  for (const std::string& row : rows(again))
    // The summary differs, and is as wide as its words.
    if (row.starts_with("|  ") && row.find_first_of("0123456789") != row.npos) {
      EXPECT_THAT(table, ::testing::Contains(row));
    }
  const auto numbers = [&](const fs::path& file) {
    const std::string text = content(root_ / file);
    return text.substr(text.find("\"widths\""));
  };
  EXPECT_EQ(numbers("out/report.json"), numbers("run/report.json"));
  // On other ranks too.
  const Outcome ranks = shell(on_ranks(2) + " eval --checkpoint " + quote((root_ / "run").string()));
  EXPECT_EQ(rows(ranks.text), rows(got.text)) << ranks.text;
}

// A width that neither training nor its table calibrated is calibrated as the run would have done it, on its text.
TEST_F(Eval, AWidthWithoutRangesIsCalibratedOnTheTrainingTextOrSaysWhatIsMissing) {
  const std::string tokens = own_tokens();
  const std::string more = std::string(kCalibrated) + " --set quant.widths=[2,4,6,8,32] " + kShort + tokens;
  train("whole", more + " --set eval.bits=[32,2]");
  train("part", more + " --set eval.bits=[32]");
  const Outcome got = eval("part", "--bits 32,2"), want = eval("whole");
  ASSERT_EQ(got.exit_code, 0) << got.text;
  EXPECT_EQ(rows(got.text), rows(want.text));
  EXPECT_EQ(rows(shell(on_ranks(2) + " eval --checkpoint " + quote((root_ / "part").string()) + " --bits 32,2").text),
            rows(want.text));
  fs::remove(root_ / "tok_train_000.bin");
  const Outcome missing = eval("part", "--bits 32,2");
  EXPECT_EQ(missing.exit_code, 3) << missing.text;
  EXPECT_THAT(missing.text, AllOf(HasSubstr("no activation ranges for 2 bits"), HasSubstr("data.train"),
                                  HasSubstr("tok_train_000.bin")));
  EXPECT_EQ(eval("whole").exit_code, 0);
}

TEST_F(Eval, EvaluationEveryNowAndThenChangesNoLossOfACalibratedRun) {
  const std::string more = std::string(kCalibrated) + " --set quant.widths=[2,4,6,8,32] --set train.steps=10 ";
  train("never", more);
  const auto expected = losses("never");
  ASSERT_EQ(expected.size(), 10U);
  for (const char* every : {"1", "5"}) {
    train(every, more + "--set eval.every=" + every);
    EXPECT_EQ(losses(every), expected) << every;
  }
}

// ---- another model

TEST_F(Eval, ACheckpointOfAnotherModelIsRefusedWithWhatDiffers) {
  train("run", kShort);
  for (const auto& [set, text] : std::vector<std::pair<std::string, std::string>>{
           {"model.n_layer=1", "model.n_layer: 2 in the checkpoint, 1 now"},
           {"model.n_head=4", "model.n_head: 2 in the checkpoint, 4 now"},
           {"model.quantize_lm_head=true", "model.quantize_lm_head: false in the checkpoint, true now"},
           {"lora.rank=8", "lora.rank: 4 in the checkpoint, 8 now"}}) {
    const Outcome got = eval("run", "--set " + set);
    EXPECT_EQ(got.exit_code, 4) << set << ": " << got.text;
    EXPECT_THAT(got.text, HasSubstr(text));
  }
  // What is no part of the model may change.
  EXPECT_EQ(eval("run", "--bits 32 --set data.sequence_length=16 --set eval.max_tokens=100").exit_code, 0);
}

TEST_F(Eval, ARunStartsFromACheckpointOfTheSameBaseAndNoOther) {
  train("base", std::string(kShort) + " --set lora.rank=0");
  const std::string from = std::string(kShort) +
                           " --set model.init=checkpoint --set model.init_from=" + quote((root_ / "base").string()) +
                           " ";
  const Outcome adapters = shell(program() + tiny("adapters", from));
  EXPECT_EQ(adapters.exit_code, 0) << adapters.text;
  EXPECT_THAT(adapters.text, AllOf(HasSubstr("lora.rank: 0 in the checkpoint, 4 now"),
                                   HasSubstr("initial parameters from"), HasSubstr("step_00000004")));
  for (const auto& [set, key] : std::vector<std::pair<std::string, std::string>>{{"model.n_layer=3", "model.n_layer"},
                                                                                 {"model.n_head=4", "model.n_head"}}) {
    const Outcome got = shell(on_ranks(2) + tiny("other", from + "--set " + set));
    EXPECT_EQ(got.exit_code, 4) << got.text;
    EXPECT_EQ(count(got.text, key + ": "), 1U) << got.text;
    EXPECT_THAT(got.text, HasSubstr("model.init_from"));
  }
}

TEST_F(Eval, ARunResumesWithOtherWidthsAndSaysSoButNotWithAnotherModel) {
  train("run", "--set checkpoint.every=4 --set train.steps=8");
  const Outcome widths = shell(program() + tiny("run", "--set train.steps=12 --set quant.widths=[4,8,32]"));
  EXPECT_EQ(widths.exit_code, 0) << widths.text;
  EXPECT_THAT(widths.text, AllOf(HasSubstr("quant.widths: [4,6,8,32] in the checkpoint, [4,8,32] now"),
                                 HasSubstr("train.steps: 8 in the checkpoint, 12 now")));
  for (const auto& [set, text] : std::vector<std::pair<std::string, std::string>>{
           {"lora.rank=8", "lora.rank: 4 in the checkpoint, 8 now"},
           {"model.n_layer=3", "model.n_layer: 2 in the checkpoint, 3 now"}}) {
    const Outcome got = shell(on_ranks(2) + tiny("run", "--set train.steps=16 --set " + set));
    EXPECT_EQ(got.exit_code, 4) << got.text;
    EXPECT_EQ(count(got.text, text), 1U) << got.text;
  }
}

// ---- damaged ones

TEST_F(Eval, ADamagedNewestCheckpointIsPassedOverAtEveryDoorWithAWarning) {
  train("run", "--set checkpoint.every=4 --set train.steps=12 --set eval.max_tokens=300");
  const fs::path checkpoints = "run/checkpoints";
  damage(checkpoints / "step_00000012/checkpoint.h5");
  const std::string said = "warning: passing over step 12, taking step 8 in its place";
  const Outcome got = eval("run", "--bits 32 --output " + quote((root_ / "out").string()));
  EXPECT_EQ(got.exit_code, 0) << got.text;
  EXPECT_THAT(got.text, AllOf(HasSubstr(said), HasSubstr("XXH3")));
  EXPECT_THAT(content(root_ / "out/report.json"), HasSubstr("\"step\": 8"));
  const std::string from =
      std::string(kShort) + " --set model.init=checkpoint --set model.init_from=" + quote((root_ / "run").string());
  const Outcome started = shell(program() + tiny("new", from));
  EXPECT_EQ(started.exit_code, 0) << started.text;
  EXPECT_THAT(started.text, AllOf(HasSubstr("model.init_from: passing over step 12"), HasSubstr("step_00000008")));

  const Outcome strict = eval("run", "--strict");
  EXPECT_EQ(strict.exit_code, 4) << strict.text;
  EXPECT_EQ(shell(program() + " --strict" + tiny("new2", from)).exit_code, 4);
  EXPECT_EQ(shell(program() + " --strict" + tiny("run", "--set train.steps=12")).exit_code, 4);
  // A named one is that one; what is advised is sound.
  damage(checkpoints / "step_00000004/checkpoint.h5");
  const Outcome named = eval((checkpoints / "step_00000012").string());
  EXPECT_EQ(named.exit_code, 4) << named.text;
  EXPECT_THAT(named.text, AllOf(HasSubstr("to take instead: step_00000008"), Not(HasSubstr("step_00000004"))));

  const Outcome resumed = shell(program() + tiny("run", "--set train.steps=12 --set checkpoint.every=4"));
  EXPECT_EQ(resumed.exit_code, 0) << resumed.text;
  EXPECT_THAT(resumed.text, AllOf(HasSubstr(said), HasSubstr("resuming after step 8")));
  const Outcome whole = eval("run", "--strict --bits 32");
  EXPECT_EQ(whole.exit_code, 0) << whole.text;
}

TEST_F(Eval, ATruncatedOrMissingFileIsDamageToo) {
  train("run", "--set checkpoint.every=2 --set train.steps=6 --set precision.cycles=1");
  const fs::path checkpoints = root_ / "run/checkpoints";
  const fs::path newest = checkpoints / "step_00000006/checkpoint.h5";
  fs::resize_file(newest, fs::file_size(newest) - 1);
  fs::remove(checkpoints / "step_00000004/checkpoint.h5");
  const Outcome got = eval("run", "--bits 32");
  EXPECT_EQ(got.exit_code, 0) << got.text;
  EXPECT_THAT(got.text, AllOf(HasSubstr("passing over step 6, taking step 2"), HasSubstr("bytes, found"),
                              HasSubstr("passing over step 4, taking step 2"), HasSubstr("missing")));
  fs::remove(checkpoints / "step_00000002/manifest.json");
  const Outcome none = eval("run", "--bits 32");
  EXPECT_EQ(none.exit_code, 4) << none.text;
  EXPECT_THAT(none.text, HasSubstr("none of the 3 checkpoints can be loaded"));
}

// ---- a run that is going on

TEST_F(Eval, ALiveRunIsEvaluatedWhileItsRetentionTakesTheFoldersAway) {
  const std::string live = program() + tiny("run",
                                            "--set train.steps=1000000 --set checkpoint.every=1 --set "
                                            "checkpoint.keep=1 --set parallel.threads_per_rank=1");
  Outcome ended{};
  std::thread runner([&] { ended = shell(live); });
  const bool began =
      wait_for([&] { return fs::exists(root_ / "run/checkpoints/step_00000002") || losses("run").size() > 4; });
  EXPECT_TRUE(began);
  std::set<std::string> steps;
  for (int i = 0; began && i < 5; ++i) {
    const Outcome got = eval("run", "--bits 32 --set eval.max_tokens=100 --set parallel.threads_per_rank=1 --output " +
                                        quote((root_ / "out").string()));
    EXPECT_EQ(got.exit_code, 0) << got.text;
    EXPECT_THAT(got.text, Not(HasSubstr("warning")));
    const std::string report = content(root_ / "out/report.json");
    steps.insert(report.substr(report.find("\"step\""), 20));
  }
  EXPECT_GT(steps.size(), 3U) << "the run went on meanwhile";
  kill(locked_by("run"), SIGKILL);
  runner.join();
}

}  // namespace
}  // namespace qat::cli

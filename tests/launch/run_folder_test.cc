// Whose a run folder is: what a start that is refused leaves in it, and what it says of the run that is there.
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class RunFolder : public Cli {
 protected:
  static constexpr const char* kShort = "--set train.steps=4 --set precision.cycles=2 --set checkpoint.every=2 ";
  std::string file(const std::string& name) const { return content(root_ / "run" / name); }
  // A token file that the run was not trained on.
  std::string other_tokens() const {
    std::string text(1024 + 2 * 400, '\0');
    const std::array<std::int32_t, 256> header = {20240520, 1, 400};
    text.replace(0, sizeof header, reinterpret_cast<const char*>(header.data()), sizeof header);
    return write("other.bin", text);
  }
  Outcome start(const std::string& more) const { return shell(program() + tiny("run", kShort + more)); }
};

TEST_F(RunFolder, AStartThatIsRefusedLeavesTheRunAsItWas) {
  ASSERT_EQ(start("").exit_code, 0);
  const std::string config = file("config.json"), table = file("report.json"), steps = file("metrics.jsonl");
  ASSERT_THAT(config, HasSubstr("\"n_layer\": 2"));
  const std::string newest = (root_ / "run/checkpoints/step_00000004").string();
  struct Refused {
    std::string change, says;
    int exit_code;
  };
  for (const Refused& one : {Refused{"--set run.resume=never", "run.resume is \"never\", but ", 2},
                             Refused{"--set model.n_layer=3", "model.n_layer: 2 in the checkpoint, 3 now", 4},
                             Refused{"--set run.resume=nosuch", "nosuch: no such folder", 4},
                             Refused{"--set train.steps=6 --set data.train=" + quote("[\"" + other_tokens() + "\"]"),
                                     "is not what the checkpoint", 3}}) {
    const Outcome end = start(one.change);
    EXPECT_EQ(end.exit_code, one.exit_code) << end.text;
    EXPECT_THAT(end.text, AllOf(HasSubstr(one.says), Not(HasSubstr("checkpoint: none")), Not(HasSubstr("next:"))));
    EXPECT_EQ(file("config.json"), config) << one.change;
    EXPECT_EQ(file("report.json"), table) << one.change;
    EXPECT_EQ(file("metrics.jsonl"), steps) << one.change;
    EXPECT_THAT(file("status.json"), AllOf(HasSubstr("\"failed\""), HasSubstr("\"last_step\": 4,"), HasSubstr(newest),
                                           HasSubstr("\"next\": null")))
        << one.change;
    EXPECT_THAT(file("report.md"), HasSubstr(newest)) << one.change;
  }
  // What the run has left goes on: with the configuration that it had.
  const Outcome on = shell(program() + " --config " + quote((root_ / "run/config.json").string()));
  EXPECT_EQ(on.exit_code, 0) << on.text;
  EXPECT_THAT(on.text, AllOf(HasSubstr("this run is finished"), Not(HasSubstr("changed configuration"))));
}

// It trains nothing, and evaluates nothing.
TEST_F(RunFolder, ATableThatIsReadAgainChangesNoConfiguration) {
  ASSERT_EQ(start("").exit_code, 0);
  const std::string config = file("config.json");
  const Outcome again = start("--set lr.peak=0.01");
  EXPECT_EQ(again.exit_code, 0) << again.text;
  EXPECT_THAT(again.text, HasSubstr("this run is finished"));
  EXPECT_EQ(file("config.json"), config);
  // Steps made with it do.
  const Outcome on = start("--set lr.peak=0.01 --set train.steps=6");
  EXPECT_EQ(on.exit_code, 0) << on.text;
  EXPECT_NE(file("config.json"), config);
}

TEST_F(RunFolder, AFinishedRunIsEvaluatedAgainWhereItsFiguresWouldBeOthers) {
  ASSERT_EQ(start("").exit_code, 0);
  for (const auto& [change, says] : {std::pair{"quant.kv_bits=8", "quant.kv_bits was 32, is 8"},
                                     {"quant.weight.method=log", "quant.weight.method was \"minmax\", is \"log\""},
                                     {"lora.alpha=4", "lora.alpha was 8.0, is 4.0"}}) {
    const std::string before = file("report.json");
    const Outcome again = start(std::string("--set ") + change);
    EXPECT_EQ(again.exit_code, 0) << again.text;
    EXPECT_THAT(again.text, AllOf(HasSubstr("of other settings"), HasSubstr(says), HasSubstr("evaluating again")));
    EXPECT_NE(file("report.json"), before);
  }
  ASSERT_EQ(start("").exit_code, 0);
  const Outcome same = start("--set quant.stochastic_gradients=false --set optim.beta1=0.5");
  EXPECT_THAT(same.text, AllOf(HasSubstr("this run is finished: step 4"), Not(HasSubstr("evaluating again"))));
}

TEST_F(RunFolder, ARangeTestLeavesTheConfigurationOfTheRunThatIsThere) {
  ASSERT_EQ(start("").exit_code, 0);
  const std::string config = file("config.json");
  const std::string test = "--set range_test.steps=2 --set range_test.threshold=0 --set lr.peak=0.1";
  const Outcome tested = shell(program() + " prt" + tiny("run", std::string(kShort) + test));
  EXPECT_EQ(tested.exit_code, 0) << tested.text;
  EXPECT_EQ(file("config.json"), config);
  EXPECT_THAT(file("status.json"), HasSubstr("step_00000004"));
  ASSERT_EQ(shell(program() + " prt" + tiny("other", std::string(kShort) + test)).exit_code, 0);
  EXPECT_THAT(content(root_ / "other/config.json"), HasSubstr("\"peak\": 0.1"));
}

TEST_F(RunFolder, OtherCommandsSayNothingOfStepsWhenTheyFail) {
  for (const char* command : {" eval --checkpoint nosuch", " generate nosuch --prompt a"}) {
    const Outcome end = shell(program() + command);
    EXPECT_EQ(end.exit_code, 4) << end.text;
    EXPECT_THAT(end.text, AllOf(HasSubstr("nosuch: no such folder"), Not(HasSubstr("last step")),
                                Not(HasSubstr("checkpoint: none"))));
  }
}

}  // namespace
}  // namespace qat::cli

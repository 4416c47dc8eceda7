// Adapters and norms that each width has for itself, as a user trains, resumes, scores and exports them.
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class Slots : public Cli {
 protected:
  std::string train(const std::string& name, const std::string& options = "") const {
    return " --config " + quote(source_ + "/configs/tiny_cpu.json") +
           " --set run.dir=" + quote((root_ / name).string()) +
           " --set lora.slots=per_width --set model.norm_slots=per_width --set train.steps=8 --set precision.cycles=2 "
           "--set checkpoint.every=4 --set eval.max_tokens=512 " +
           options;
  }
  std::string folder(const std::string& name) const { return quote((root_ / name).string()); }
  // The losses of a run, in order.
  std::vector<std::string> losses(const std::string& name) const {
    std::vector<std::string> found;
    std::ifstream metrics(root_ / name / "metrics.jsonl");
    for (std::string line; std::getline(metrics, line);) {
      const std::size_t at = line.find("\"loss\":");
      found.push_back(line.substr(at, line.find(',', at) - at));
    }
    return found;
  }
  // The rows of the table in a text.
  static std::string table(const std::string& text) {
    const std::size_t begin = text.find("| Bits W"), end = text.rfind("|\n+");
    return begin == std::string::npos || end == std::string::npos ? "" : text.substr(begin, end - begin);
  }
};

TEST_F(Slots, TrainToTheSameBitsOnOneTwoAndEightRanksAndAfterAResume) {
  const Outcome one = shell(program() + train("one"));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  EXPECT_THAT(one.text, HasSubstr("4 widths have parameters of their own"));
  ASSERT_EQ(losses("one").size(), 8U);
  for (const int ranks : {2, 8}) {
    const std::string name = std::to_string(ranks);
    const Outcome many = shell(on_ranks(ranks) + train(name));
    ASSERT_EQ(many.exit_code, 0) << many.text;
    EXPECT_THAT(many.text, HasSubstr("while a pass uses them"));
    EXPECT_EQ(losses(name), losses("one")) << ranks;
    EXPECT_EQ(table(many.text), table(one.text)) << ranks;
  }
  // From two ranks' fourth step on, on four.
  fs::remove_all(root_ / "2/checkpoints/step_00000008");
  fs::remove(root_ / "2/report.json");
  fs::remove(root_ / "2/report.md");
  const Outcome resumed = shell(on_ranks(4) + train("2"));
  ASSERT_EQ(resumed.exit_code, 0) << resumed.text;
  EXPECT_EQ(losses("2"), losses("one"));
  EXPECT_EQ(table(resumed.text), table(one.text));
  const Outcome scored = shell(program() + " eval --checkpoint " + folder("2"));
  EXPECT_EQ(scored.exit_code, 0) << scored.text;
  EXPECT_EQ(table(scored.text), table(one.text));
  EXPECT_FALSE(table(one.text).empty());
}

TEST_F(Slots, AnExportIsOfOneWidthAndOthersAreRefused) {
  ASSERT_EQ(shell(program() + train("run")).exit_code, 0);
  const auto exported = [&](const std::string& options) {
    return shell(program() + " export --checkpoint " + folder("run") + " -o " + folder("out") + " --overwrite " +
                 options);
  };
  EXPECT_EQ(exported("--part adapter --bits 6").exit_code, 0);
  EXPECT_EQ(exported("--part merged --bits 4").exit_code, 0);
  EXPECT_EQ(exported("--part base").exit_code, 0);
  const Outcome none = exported("--part adapter"), other = exported("--bits 5");
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.text, HasSubstr("--bits is missing: each of the widths (4, 6, 8) has adapters of its own"));
  EXPECT_EQ(other.exit_code, 2);
  EXPECT_THAT(other.text, HasSubstr("none for this one"));
}

TEST_F(Slots, ARunWithSharedOnesIsNotResumedButMayBegin) {
  ASSERT_EQ(shell(program() + train("shared", "--set lora.slots=shared --set model.norm_slots=shared")).exit_code, 0);
  const Outcome resumed = shell(program() + train("shared"));
  EXPECT_EQ(resumed.exit_code, 4) << resumed.text;
  EXPECT_THAT(resumed.text, HasSubstr("lora.slots"));
  const Outcome begun =
      shell(program() + train("own", "--set model.init=checkpoint --set model.init_from=" + folder("shared")));
  EXPECT_EQ(begun.exit_code, 0) << begun.text;
  EXPECT_THAT(begun.text, HasSubstr("start as what its widths share"));
}

// Ranks, inputs, quantizers and rates of each width's own, from a configuration's text to files for peft.
TEST_F(Slots, AWidthsOwnRanksQuantizersAndRatesTrainExportAndAreItsCheckpoints) {
  const std::string own =
      "--set quant.weight.by_width='[{\"bits\":8,\"method\":\"log\"}]' --set optim.noise=0.01 "
      "--set lr.scale_preset=001-down --set train.recipe=per_map ";
  const std::string ranks = "--set lora.input=raw --set lora.per_width=";
  const std::string list =
      ranks + "'[{\"bits\":4,\"rank\":9,\"alpha\":18,\"quantize\":false},{\"bits\":6,\"rank\":0}]' ";
  const Outcome one = shell(program() + train("one", own + list)), two = shell(on_ranks(2) + train("two", own + list));
  ASSERT_EQ(one.exit_code, 0) << one.text;
  ASSERT_EQ(two.exit_code, 0) << two.text;
  EXPECT_EQ(losses("two"), losses("one"));
  EXPECT_EQ(table(two.text), table(one.text));
  EXPECT_THAT(one.text, AllOf(HasSubstr("linear layers at 4, 6 bits: int8 codes"),
                              HasSubstr("linear layers at 8 bits: quantized values")));
  const Outcome scored = shell(program() + " eval --checkpoint " + folder("two"));
  EXPECT_EQ(scored.exit_code, 0) << scored.text;
  EXPECT_EQ(table(scored.text), table(one.text));
  const auto exported = [&](int bits) {
    return shell(program() + " export --checkpoint " + folder("one") + " -o " + folder("out") +
                 " --overwrite --part adapter --bits " + std::to_string(bits));
  };
  ASSERT_EQ(exported(4).exit_code, 0);
  std::ifstream file(root_ / "out/adapter_config.json");
  const std::string json((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(json, AllOf(HasSubstr("\"r\": 9"), HasSubstr("\"lora_alpha\": 18")));
  const Outcome none = exported(6);
  EXPECT_EQ(none.exit_code, 2);
  EXPECT_THAT(none.text, HasSubstr("--bits is 6: the model has no adapters at this width, but at 4, 8"));
  const Outcome other =
      shell(program() + train("one", own + ranks + "'[{\"bits\":4,\"rank\":8}]' --set train.steps=9"));
  EXPECT_EQ(other.exit_code, 4) << other.text;
  EXPECT_THAT(other.text, HasSubstr("lora.per_width: [{\"bits\":4,\"rank\":9"));
  const Outcome missing = shell(on_ranks(2) + train("bad", ranks + "'[{\"bits\":5,\"rank\":8}]'"));
  EXPECT_EQ(missing.exit_code, 2) << missing.text;
  EXPECT_THAT(missing.text, HasSubstr("lora.per_width[0].bits = 5: must be a width of quantized weights"));
}

TEST_F(Slots, RanksByWidthAreExportedLayerByLayer) {
  // nano has 64 channels: c_proj of the MLP has 256 inputs, and with them other ranks.
  ASSERT_EQ(shell(program() + train("run", "--set lora.rank_rule=by_width")).exit_code, 0);
  const Outcome got =
      shell(program() + " export --checkpoint " + folder("run") + " -o " + folder("out") + " --part adapter --bits 4");
  ASSERT_EQ(got.exit_code, 0) << got.text;
  std::ifstream file(root_ / "out/adapter_config.json");
  const std::string json((std::istreambuf_iterator<char>(file)), {});
  EXPECT_THAT(json, AllOf(HasSubstr("\"r\": 1"), HasSubstr("\"h.0.mlp.c_proj\": 2"), HasSubstr("\"lora_alpha\": 2"),
                          HasSubstr("\"h.1.mlp.c_proj\": 4")));
}

}  // namespace
}  // namespace qat::cli

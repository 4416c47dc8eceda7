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
    EXPECT_THAT(many.text, HasSubstr("while a pass uses a width"));
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

}  // namespace
}  // namespace qat::cli

// The same bits on other numbers of ranks and on other grids of them, wherever the README claims it: in what a run
// writes.
#include <map>

#include "src/checkpoint/train_state.h"
#include "tests/launch/cli_fixture.h"

namespace qat::cli {
namespace {

class RankCounts : public Cli {
 protected:
  struct Written {
    std::vector<std::string> steps;  // losses and gradient norms
    std::string evaluations;
    std::map<std::string, std::string> tensors;  // of the checkpoint: by name, their bytes
    std::string state;                           // its counters, but for the number of ranks
    std::string said;
  };

  // Two steps of so many micro-batches, in a folder of its own, under a name that is the same for all.
  Written run(int ranks, int micro_batches, int stages = 1, const std::string& more = "") const {
    static int runs = 0;
    const fs::path dir = root_ / std::to_string(runs++);
    fs::create_directories(dir);
    const Outcome outcome = shell(
        "cd " + quote(dir.string()) + " && " + on_ranks(ranks) + " --config " +
        quote(source_ + "/configs/tiny_cpu.json") +
        " --set run.dir=run --set train.steps=2 --set precision.cycles=1 --set lr.warmup_steps=0 --set eval.every=1 "
        "--set eval.bits=[8] --set eval.max_tokens=512 --set data.sequence_length=16 --set train.batch_size=" +
        std::to_string(micro_batches) + " --set parallel.pipeline=" + std::to_string(stages) + more);
    EXPECT_EQ(outcome.exit_code, 0) << outcome.text;
    Written written{.said = outcome.text};
    std::ifstream metrics(dir / "run/metrics.jsonl");
    for (std::string line; std::getline(metrics, line);)
      written.steps.push_back(value(line, "loss") + " " + value(line, "grad_norm"));
    written.evaluations = content(dir / "run/eval.jsonl");
    read_checkpoint(dir / "run/checkpoints/step_00000002", written);
    return written;
  }
  static void read_checkpoint(const fs::path& folder, Written& written) {
    const CheckpointReader reader = CheckpointReader::open(folder);
    for (const std::string& name : reader.tensor_names()) {
      const TensorInfo info = reader.tensor_info(name);
      const std::int64_t elems = element_count(info.shape);
      std::string bytes(static_cast<std::size_t>(elems) * size_of(info.dtype), '\0');
      reader.read_tensor(name, info.shape, {bytes.data(), elems, info.dtype, Device::kCpu});
      written.tensors.emplace(name, std::move(bytes));
    }
    TrainState state = load_train_state(reader);
    state.world_size = 1;
    state.config_json.clear(), state.config_hash = 0;       // the grid is in there
    EXPECT_THAT(state.wire, ::testing::AnyOf("", "fp32"));  // one rank decides nothing
    state.wire.clear();
    written.state = to_text(state);
  }
  static std::string value(const std::string& line, const std::string& key) {
    const std::size_t at = line.find("\"" + key + "\":");
    return line.substr(at, line.find(',', at) - at);
  }

  static void expect_same(const Written& a, const Written& b, const std::string& what) {
    EXPECT_EQ(a.steps.size(), 2U) << what;
    EXPECT_EQ(a.steps, b.steps) << what;
    EXPECT_EQ(a.evaluations, b.evaluations) << what;
    EXPECT_EQ(a.state, b.state) << what;
    ASSERT_GT(a.tensors.size(), 100U) << what;
    ASSERT_EQ(a.tensors.size(), b.tensors.size()) << what;
    for (const auto& [name, bytes] : a.tensors) EXPECT_TRUE(b.tensors.at(name) == bytes) << what << ": " << name;
  }
};

// The step runner's own tests go through the rest of the counts, on ranks that are threads.
TEST_F(RankCounts, ThatDifferByAPowerOfTwoWriteTheSame) {
  struct Case {
    int micro_batches;
    std::vector<int> ranks;
  };
  for (const auto& [micro_batches, ranks] :
       {Case{24, {1, 2, 8}}, Case{24, {3, 6}}, Case{48, {1, 4}}, Case{8, {1, 4}}}) {
    const Written few = run(ranks[0], micro_batches);
    EXPECT_EQ(few.said.find("have the same bits on 3, 6, 12, ... ranks") != std::string::npos, ranks[0] == 3)
        << few.said;
    for (std::size_t i = 1; i < ranks.size(); ++i)
      expect_same(run(ranks[i], micro_batches), few,
                  std::to_string(micro_batches) + " micro-batches on " + std::to_string(ranks[i]) + " ranks");
  }
}

TEST_F(RankCounts, InAnyGridOfReplicasAndStagesWriteTheSame) {
  const std::string layers = " --set model.n_layer=4";
  const Written one = run(1, 8, 1, layers);
  for (const auto& [ranks, stages] : {std::pair{8, 1}, {8, 2}, {8, 4}, {2, 2}, {3, 3}}) {
    const Written many = run(ranks, 8, stages, layers);
    expect_same(many, one, std::to_string(ranks) + " ranks in " + std::to_string(stages) + " stages");
    if (stages == 1) continue;
    EXPECT_THAT(many.said, HasSubstr(std::to_string(ranks / stages) + " replica"));
    EXPECT_THAT(many.said, HasSubstr("stage 0: block"));
    EXPECT_THAT(many.said, HasSubstr(", head; "));
  }
  expect_same(run(4, 8, 4, layers + " --set compute.recompute=block --set parallel.schedule=gpipe"), one, "recomputed");
  const std::string chunks = layers + " --set parallel.schedule=interleaved --set parallel.chunks=2";
  const Written interleaved = run(4, 8, 2, chunks);
  expect_same(interleaved, one, "two replicas of two stages of two chunks");
  EXPECT_THAT(interleaved.said, HasSubstr("stage 1: blocks 1 and 3, head; "));
  expect_same(run(2, 8, 2, chunks + " --set compute.recompute=block"), one, "chunks, recomputed");
}

// A grid that does not fit is refused at once, with what would fit.
TEST_F(RankCounts, AGridThatDoesNotFitIsRefused) {
  for (const auto& [sets, said] : std::vector<std::pair<std::string, std::string>>{
           {"parallel.pipeline=3", "must not exceed model.n_layer"},
           {"model.n_layer=3 --set parallel.pipeline=3", "must divide the number of ranks, 2; nearest: 2"},
           {"parallel.data=2 --set parallel.pipeline=2", "= 2 * 2 = 4, but 2 ranks were started: start 4"},
           {"parallel.pipeline=2 --set parallel.cut=[0,2]", "so that every piece has a block; nearest: [0, 1]"},
           {"parallel.pipeline=2 --set parallel.threads_per_rank=3", "must be 0 or 1 with several stages"}}) {
    const Outcome outcome = shell(on_ranks(2) + tiny("run", "--set " + sets));
    EXPECT_EQ(outcome.exit_code, 2) << outcome.text;
    EXPECT_EQ(count(outcome.text, said), 1U) << sets << "\n" << outcome.text;
    EXPECT_FALSE(fs::exists(root_ / "run")) << sets;
  }
}

}  // namespace
}  // namespace qat::cli

// Parameters that travel beside computing on real GPUs, over NCCL: the bits of a run that waits for all of them before
// each pass. Needs a GPU for each rank; with fewer it says so and tests nothing.
#include <torch/torch.h>

#include <cstdio>
#include <string>
#include <vector>

#include "dist/comm/device_assignment.h"
#include "dist/comm/nccl_comm.h"
#include "kernels/common/cuda_device.h"
#include "tests/dist/rank_test_main.h"
#include "tests/support/planned_widths.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

// Of many buckets, and of a width, a rank and a number of tokens that the tensor cores take.
test::TinyModel gpu_model(Slots slots) {
  test::TinyModel spec;
  spec.config = {.preset = "", .n_layer = 12, .n_head = 8, .n_embd = 512, .n_positions = 64, .vocab_size = 1031};
  spec.config.norm_slots = slots;
  spec.lora = {.rank = 16, .alpha = 32.0, .slots = slots};
  spec.quant.widths = {2, 4, 8, 32};
  return spec;
}

struct Trained {
  std::vector<double> losses, norms;
  std::vector<float> parameters;
};

Trained train(dist::Communicator& comm, const ComputeMode& mode, Slots slots, const CommConfig& wire) {
  const TokenSource tokens = test::tiny_tokens(4000, 1031);
  StepRunnerOptions options{.seed = 5, .sequence_length = 64, .train = {.batch_size = 8, .micro_batch_size = 2}};
  options.comm = wire;
  test::TinyModel spec = gpu_model(slots);
  test::TinyRank rank(spec, tokens, comm, options, mode);
  Trained out;
  for (int round = 0; round < 3; ++round)
    for (std::size_t step = 0; step < test::kManyWidths.size(); ++step) {
      dist::StepPlan plan = test::plan_of(test::kManyWidths, step, /*ahead=*/true);
      plan.step += static_cast<std::uint64_t>(round) * test::kManyWidths.size();
      const StepOutcome outcome = rank.run(plan);
      out.losses.push_back(outcome.loss), out.norms.push_back(outcome.grad_norm);
      EXPECT_GE(outcome.wire.weight_seconds, 0.0);
    }
  out.parameters = rank.parameters();
  return out;
}

class SendBeside : public ::testing::Test {
 public:
  SendBeside(dist::Communicator& comm, const ComputeMode& mode) : comm_(comm), mode_(mode) {}

  void TestBody() override {
    for (const Slots slots : {Slots::kShared, Slots::kPerWidth})
      for (const WeightsName weights : {WeightsName::kCodes, WeightsName::kFp32}) {
        SCOPED_TRACE(std::string(enum_name(weights)) + ", " + std::string(enum_name(slots)));
        const Trained waits = train(comm_, mode_, slots, {.overlap = false, .weights = weights});
        EXPECT_NE(waits.losses.front(), waits.losses.back());
        const Trained beside = train(comm_, mode_, slots, {.overlap = true, .weights = weights});
        EXPECT_EQ(beside.losses, waits.losses);
        EXPECT_EQ(beside.norms, waits.norms);
        EXPECT_TRUE(beside.parameters == waits.parameters);
      }
  }

 private:
  dist::Communicator& comm_;
  ComputeMode mode_;
};

int run(int argc, char** argv) {
  dist::MpiSession session(&argc, &argv);
  if (session.local_size() > cuda_device_count()) {
    if (session.rank() == 0)
      std::printf("skipped: %d ranks on this machine and %d GPUs\n", session.local_size(), cuda_device_count());
    return 0;
  }
  try {
    std::unique_ptr<dist::Communicator> control = dist::make_mpi_world(session);
    const int device = dist::assign_local_devices(*control);
    use_cuda(device);
    const ComputeMode mode = make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kRepeatable, device);
    const std::unique_ptr<dist::Communicator> nccl = dist::make_nccl_world(std::move(control));
    return dist::testing::run_rank_tests(session, &argc, argv, [&](dist::Communicator&) {
      ::testing::RegisterTest("SendBeside", "ChangesNoBit", nullptr, nullptr, __FILE__, __LINE__,
                              [&]() -> ::testing::Test* { return new SendBeside(*nccl, mode); });
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "rank %d of %d: %s\n", session.rank(), session.size(), error.what());
    session.abort(1);
  }
}

}  // namespace
}  // namespace qat

int main(int argc, char** argv) { return qat::run(argc, argv); }

// Training on a GPU against training on the CPU: the same losses, gradients and curves, and the same bits every time.
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>

#include "dist/comm/nccl_comm.h"
#include "kernels/common/cuda_device.h"
#include "src/quant/torch_device.h"
#include "tests/support/busy_stream.h"
#include "tests/support/tiny_training.h"

namespace qat {
namespace {

using test::TinyModel;
using test::TinyRank;

// LibTorch looks for its CUDA half once, at its first work of any kind.
class CudaFirst : public ::testing::Environment {
 public:
  void SetUp() override { use_cuda(0); }
};
const auto* const kCudaFirst = ::testing::AddGlobalTestEnvironment(new CudaFirst);

// Large enough for the tensor-core paths: a width, a rank and a number of tokens that they take.
TinyModel gpu_model() {
  TinyModel spec;
  spec.config = {.preset = "", .n_layer = 2, .n_head = 2, .n_embd = 64, .n_positions = 32, .vocab_size = 131};
  spec.lora = {.rank = 16, .alpha = 32.0};
  return spec;
}

StepRunnerOptions options(bool stochastic) {
  StepRunnerOptions result{.sequence_length = 32};
  result.train = {.batch_size = 8, .micro_batch_size = 4};
  result.stochastic_gradients = stochastic;
  return result;
}

struct Gradients {
  double loss = 0.0;
  std::vector<std::string> names;
  std::vector<at::Tensor> tensors;  // on the CPU; undefined: none
};

Gradients gradients_of(const TinyModel& spec, const ComputeMode& mode, const PrecisionMap& map,
                       std::int64_t fused_blocks) {
  Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/1024, mode);
  model.init_random(3);
  // LoRA's B is zero at first, and so would be every gradient behind it.
  torch::manual_seed(9);
  for (int id = 0; id < model.parameters().count(); ++id) {
    const ParameterInfo& info = model.parameters().info(id);
    const at::Tensor values = at::randn(info.shape) * (info.shape.size() == 1 ? 0.1 : 0.05) +
                              (info.name.find("ln_") != std::string::npos && info.name.ends_with("weight") ? 1.0 : 0.0);
    model.parameters().set_values(id, {values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  }
  const at::Tensor ids = at::randint(spec.config.vocab_size, {4, 33}, at::kLong);
  const ForwardContext context{.precision = &map, .training = true, .stochastic_gradients = false, .seed = 1};
  EXPECT_EQ(model.fused_blocks(context), mode.is_cuda() ? fused_blocks : 0);
  const LossAndGradients pass = model.loss_and_gradients({.tokens = ids.narrow(1, 0, 32).contiguous().to(mode.device)},
                                                         ids.narrow(1, 1, 32).contiguous().to(mode.device), context);
  Gradients out{.loss = pass.loss.item<double>()};
  for (const ParameterInfo& info : model.parameters().infos()) out.names.push_back(info.name);
  for (const at::Tensor& g : pass.gradients.parameters)
    out.tensors.push_back(g.defined() ? g.to(at::kCPU, at::kFloat) : g);
  return out;
}

Gradients gradients_of(const TinyModel& spec, const ComputeMode& mode, int bits, int gradient_bits, bool fused = true) {
  return gradients_of(spec, mode, PrecisionMap::uniform(spec.config.linears(), bits, bits, gradient_bits),
                      fused ? spec.config.n_layer : 0);
}

void expect_close(const Gradients& got, const Gradients& want, double loss_tolerance, double tolerance) {
  EXPECT_NEAR(got.loss, want.loss, loss_tolerance * want.loss);
  ASSERT_EQ(got.tensors.size(), want.tensors.size());
  for (std::size_t i = 0; i < got.tensors.size(); ++i) {
    ASSERT_EQ(got.tensors[i].defined(), want.tensors[i].defined()) << want.names[i];
    if (!got.tensors[i].defined()) continue;
    const double norm = want.tensors[i].norm().item<double>();
    EXPECT_LT((got.tensors[i] - want.tensors[i]).norm().item<double>(), tolerance * norm + 1e-7) << want.names[i];
  }
}

ComputeMode cuda_mode(FloatChoice dtype) { return make_compute_mode(/*cuda=*/true, dtype, AttentionChoice::kFastest); }

TEST(GpuTraining, UnquantizedGradientsAreTheCpus) {
  const Gradients cpu = gradients_of(gpu_model(), {}, 32, 32);
  expect_close(gradients_of(gpu_model(), cuda_mode(FloatChoice::kFp32), 32, 32), cpu, 1e-5, 1e-4);
  expect_close(gradients_of(gpu_model(), cuda_mode(FloatChoice::kBf16), 32, 32), cpu, 5e-3, 3e-2);
}

TEST(GpuTraining, GradientsOnCodesAreTheCpus) {
  for (const int bits : {8, 4}) {
    SCOPED_TRACE(bits);
    const Gradients cpu = gradients_of(gpu_model(), {}, bits, 8);
    // A value on a rounding boundary may get another code; at 4 bits one code is a large step.
    expect_close(gradients_of(gpu_model(), cuda_mode(FloatChoice::kFp32), bits, 8), cpu, 1e-3, bits == 8 ? 2e-2 : 1e-1);
    expect_close(gradients_of(gpu_model(), cuda_mode(FloatChoice::kBf16), bits, 8), cpu, 1e-2, bits == 8 ? 1e-1 : 4e-1);
  }
}

// fp16 holds codes of 9 to 11 bits, so that bf16 activations are all that differs from the CPU.
TEST(GpuTraining, WideCodesAreTheCpus) {
  TinyModel spec = gpu_model();
  for (const int bits : {9, 11}) {
    SCOPED_TRACE(bits);
    const Gradients cpu = gradients_of(spec, {}, bits, 32, /*fused=*/false);
    // A value on a rounding boundary may get another code.
    expect_close(gradients_of(spec, cuda_mode(FloatChoice::kFp32), bits, 32, /*fused=*/false), cpu, 1e-5, 1e-2);
    expect_close(gradients_of(spec, cuda_mode(FloatChoice::kBf16), bits, 32, /*fused=*/false), cpu, 5e-3, 1e-1);
  }
}

TEST(GpuTraining, AFrozenBaseHasGradientsForAdaptersAndNormsAlone) {
  TinyModel spec = gpu_model();
  spec.config.freeze_base = true;
  const Gradients cpu = gradients_of(spec, {}, 8, 8);
  expect_close(gradients_of(spec, cuda_mode(FloatChoice::kFp32), 8, 8), cpu, 1e-3, 2e-2);
}

// A step leaves gradients in their places in the flat buffer, the tied embedding's from two sources.
TEST(GpuTraining, GradientsInTheirPlacesAreAutograds) {
  for (const int bits : {8, 32}) {
    SCOPED_TRACE(bits);
    TinyModel spec = gpu_model();
    StepRunnerOptions one_pass = options(/*stochastic=*/false);
    one_pass.train = {.batch_size = 4, .micro_batch_size = 4};
    const TokenSource tokens = test::tiny_tokens(4000, spec.config.vocab_size);
    const auto comm = dist::make_nccl_world(dist::make_single_comm());
    TinyRank rank(spec, tokens, *comm, one_pass,
                  make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kRepeatable));
    const ParameterStore& store = rank.model().parameters();
    std::map<int, at::Tensor> got;
    rank.runner().set_gradient_hook(
        [&](std::int64_t, std::int64_t, int id, const at::Tensor& gradient) { got[id] = gradient.cpu(); });
    // Without a step of its own: the learning rate is zero.
    rank.step(/*index=*/0, bits, bits == 32 ? 32 : 8, /*learning_rate=*/0.0F);
    const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), bits, bits, bits == 32 ? 32 : 8);
    const Batch batch = sample_batch(rank.sampler(), 0, 4, 32, rank.model().mode().device);
    const ForwardContext context{
        .precision = &map, .training = true, .stochastic_gradients = false, .seed = one_pass.seed};
    const auto want =
        rank.model().loss_and_gradients({.tokens = batch.inputs}, batch.targets, context).gradients.parameters;
    EXPECT_EQ(got.size(), want.size());
    for (const auto& [id, gradient] : got) {
      const ParameterInfo& info = store.info(id);
      const at::Tensor& returned = want[static_cast<std::size_t>(info.trainable_index)];
      const at::Tensor expected = returned.defined() ? returned.cpu() : at::zeros(info.shape);
      EXPECT_LE((gradient - expected).norm().item<double>(), 1e-5 * expected.norm().item<double>()) << info.name;
    }
  }
}

// A layer that the fused kernels do not take costs its own block the fusion: the others pass the residual stream to it
// and take it back.
TEST(GpuTraining, BlocksDecideForThemselvesWhetherTheyFuse) {
  TinyModel spec = gpu_model();
  spec.config.n_layer = 4;
  Gpt2 names(spec.config, spec.lora, spec.quant, /*pad_to=*/1024);
  for (const char* wide : {"h.0.mlp.c_fc", "h.2.attn.c_attn", "h.3.*"}) {
    SCOPED_TRACE(wide);
    const PrecisionMap map = PrecisionMap::make(names.linear_names(), {BitWidth(8), BitWidth(8), BitWidth(8)},
                                                {{.layers = wide, .gradient_bits = 10}});
    const Gradients cpu = gradients_of(spec, {}, map, 0);
    expect_close(gradients_of(spec, cuda_mode(FloatChoice::kFp32), map, 3), cpu, 1e-3, 2e-2);
    expect_close(gradients_of(spec, cuda_mode(FloatChoice::kBf16), map, 3), cpu, 1e-2, 1e-1);
  }
}

struct Curve {
  std::vector<double> losses;
  std::vector<float> parameters;
  bool default_stream_was_busy = false;  // when all of it was there
};

Curve train(const ComputeMode& mode, int steps, int bits, int gradient_bits, bool stochastic) {
  TinyModel spec = gpu_model();
  const TokenSource tokens = test::tiny_tokens(4000, spec.config.vocab_size);
  const auto comm = mode.is_cuda() ? dist::make_nccl_world(dist::make_single_comm()) : dist::make_single_comm();
  TinyRank rank(spec, tokens, *comm, options(stochastic), mode);
  Curve curve;
  for (int step = 0; step < steps; ++step)
    curve.losses.push_back(rank.step(static_cast<std::uint64_t>(step), bits, gradient_bits, 2e-3F).loss);
  curve.parameters = rank.parameters();
  curve.default_stream_was_busy = mode.is_cuda() && test::is_busy({});
  return curve;
}

void expect_curve(const Curve& got, const Curve& want, double tolerance) {
  for (std::size_t i = 0; i < want.losses.size(); ++i)
    EXPECT_NEAR(got.losses[i], want.losses[i], tolerance * want.losses[i]) << "step " << i;
}

TEST(GpuTraining, FiftyStepsFollowTheCpusCurve) {
  expect_curve(train(cuda_mode(FloatChoice::kFp32), 50, 32, 32, false), train({}, 50, 32, 32, false), 1e-4);
  const Curve codes = train({}, 50, 8, 8, true);
  EXPECT_LT(codes.losses.back(), 0.9 * codes.losses.front());
  expect_curve(train(cuda_mode(FloatChoice::kFp32), 50, 8, 8, true), codes, 1e-2);
  expect_curve(train(cuda_mode(FloatChoice::kBf16), 50, 8, 8, true), codes, 2e-2);
}

TEST(GpuTraining, TwoRunsHaveTheSameBits) {
  const ComputeMode mode = make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kRepeatable);
  const Curve first = train(mode, 10, 6, 8, true), second = train(mode, 10, 6, 8, true);
  EXPECT_EQ(first.losses, second.losses);
  EXPECT_EQ(first.parameters, second.parameters);
}

// What any kernel, copy or collective of a step put on the default stream would come too late.
TEST(GpuTraining, StepsOnAnotherStreamHaveTheSameBits) {
  const ComputeMode mode = make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kRepeatable);
  for (const int bits : {6, 32}) {
    SCOPED_TRACE(bits);
    const Curve want = train(mode, 3, bits, bits == 32 ? 32 : 8, true);
    cuda_synchronize();
    const auto* const streams = c10::impl::getDeviceGuardImpl(at::kCUDA);
    const c10::StreamGuard on_another(streams->getStreamFromGlobalPool(mode.device));
    test::keep_busy({}, std::chrono::seconds(5));
    const Curve got = train(mode, 3, bits, bits == 32 ? 32 : 8, true);
    EXPECT_TRUE(got.default_stream_was_busy) << "something waited for the default stream, or takes 5 s here";
    EXPECT_EQ(got.losses, want.losses);
    EXPECT_EQ(got.parameters, want.parameters);
  }
}

// What has no fused path computes operator by operator.
TEST(GpuTraining, OtherQuantizersFollowTheCpu) {
  for (const char* method : {"log", "affine", "feature", "wide"}) {
    SCOPED_TRACE(method);
    const std::string name = method;
    TinyModel spec = gpu_model();
    if (name == "log") spec.quant.weight.method = spec.quant.activation.method = QuantizerKind::kLog;
    if (name == "affine") spec.quant.activation.symmetric = false;
    if (name == "feature") spec.quant.activation.granularity = Granularity::kFeature;
    const int bits = name == "wide" ? 12 : 6;
    double losses[2];
    for (const bool cuda : {false, true}) {
      const ComputeMode mode = cuda ? cuda_mode(FloatChoice::kFp32) : ComputeMode{};
      const TokenSource tokens = test::tiny_tokens(4000, spec.config.vocab_size);
      const auto comm = cuda ? dist::make_nccl_world(dist::make_single_comm()) : dist::make_single_comm();
      TinyRank rank(spec, tokens, *comm, options(/*stochastic=*/false), mode);
      for (int step = 0; step < 5; ++step)
        losses[cuda ? 1 : 0] = rank.step(static_cast<std::uint64_t>(step), bits, 8).loss;
    }
    EXPECT_NEAR(losses[1], losses[0], 1e-2 * losses[0]);
  }
}

}  // namespace
}  // namespace qat

// Recomputation, quantized keys and values and the quantized output projection on a GPU. gpu_training_test.cc, linked
// with this, loads LibTorch's CUDA half before the first test.
#include <c10/core/CachingDeviceAllocator.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "src/quant/torch_device.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

struct Shape {
  std::int64_t batch = 4, length = 32;
};

struct Result {
  double loss = 0.0, token_loss = 0.0;
  std::int64_t fused = 0;       // blocks
  std::int64_t peak_bytes = 0;  // of forward and backward, above what the model itself takes
  std::vector<std::string> names;
  std::vector<at::Tensor> gradients;  // on the CPU; undefined: none
};

TinyModel model_of(std::int64_t layers, std::int64_t width) {
  TinyModel spec;
  spec.config = {.preset = "", .n_layer = layers, .n_head = 2, .n_embd = width, .n_positions = 128, .vocab_size = 131};
  spec.lora = {.rank = 16, .alpha = 32.0};
  return spec;
}

void randomize(Gpt2& model) {
  torch::manual_seed(9);
  for (int id = 0; id < model.parameters().count(); ++id) {
    const ParameterInfo& info = model.parameters().info(id);
    const bool norm_weight = info.name.find("ln_") != std::string::npos && info.name.ends_with("weight");
    const at::Tensor values = at::randn(info.shape) * (info.shape.size() == 1 ? 0.1 : 0.05) + (norm_weight ? 1.0 : 0.0);
    model.parameters().set_values(id, {values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  }
}

std::int64_t allocated(bool peak) {
  const auto stats = c10::getDeviceAllocator(at::kCUDA)->getDeviceStats(0);
  const auto& bytes = stats.allocated_bytes[static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
  return peak ? bytes.peak : bytes.current;
}

Result run(const TinyModel& spec, const ComputeMode& mode, int bits, int gradient_bits, const Shape& shape = {},
           Recompute recompute = Recompute::kNone) {
  Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/1024, mode, recompute);
  randomize(model);
  const at::Tensor ids = at::randint(spec.config.vocab_size, {shape.batch, shape.length + 1}, at::kLong);
  const at::Tensor inputs = ids.narrow(1, 0, shape.length).contiguous().to(mode.device),
                   targets = ids.narrow(1, 1, shape.length).contiguous().to(mode.device);
  const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), bits, bits, gradient_bits, spec.quant.kv_bits);
  WeightCache cache;
  const ForwardContext context{
      .precision = &map, .training = true, .stochastic_gradients = false, .weight_cache = &cache, .seed = 1};
  Result out;
  out.fused = model.fused_blocks(context);
  out.token_loss = model.token_nll(inputs, targets, context).mean().item<double>();
  std::int64_t before = 0;
  if (mode.is_cuda()) {
    c10::getDeviceAllocator(at::kCUDA)->resetPeakStats(0);
    before = allocated(/*peak=*/false);
  }
  const LossAndGradients pass = model.loss_and_gradients({.tokens = inputs}, targets, context);
  if (mode.is_cuda()) out.peak_bytes = allocated(/*peak=*/true) - before;
  out.loss = pass.loss.item<double>();
  for (const ParameterInfo& info : model.parameters().infos())
    if (info.trainable) out.names.push_back(info.name);
  for (const at::Tensor& g : pass.gradients.parameters)
    out.gradients.push_back(g.defined() ? g.to(at::kCPU, at::kFloat) : g);
  return out;
}

void expect_same_bits(const Result& got, const Result& want) {
  EXPECT_EQ(got.loss, want.loss);
  ASSERT_EQ(got.gradients.size(), want.gradients.size());
  for (std::size_t i = 0; i < want.gradients.size(); ++i) {
    ASSERT_EQ(got.gradients[i].defined(), want.gradients[i].defined()) << want.names[i];
    if (!want.gradients[i].defined()) continue;
    EXPECT_TRUE(at::equal(got.gradients[i], want.gradients[i])) << want.names[i];
  }
}

void expect_close(const Result& got, const Result& want, double loss_tolerance, double tolerance) {
  EXPECT_NEAR(got.loss, want.loss, loss_tolerance * want.loss);
  EXPECT_NEAR(got.token_loss, want.token_loss, loss_tolerance * want.token_loss);
  ASSERT_EQ(got.gradients.size(), want.gradients.size());
  for (std::size_t i = 0; i < want.gradients.size(); ++i) {
    ASSERT_EQ(got.gradients[i].defined(), want.gradients[i].defined()) << want.names[i];
    if (!want.gradients[i].defined()) continue;
    const double norm = want.gradients[i].norm().item<double>();
    EXPECT_LT((got.gradients[i] - want.gradients[i]).norm().item<double>(), tolerance * norm + 1e-7) << want.names[i];
  }
}

ComputeMode repeatable(FloatChoice dtype) {
  return make_compute_mode(/*cuda=*/true, dtype, AttentionChoice::kRepeatable);
}

TEST(GpuRecompute, SavesMemoryAndChangesNoBit) {
  const TinyModel spec = model_of(/*layers=*/6, /*width=*/256);
  const Shape shape{.batch = 32, .length = 128};
  for (const int bits : {8, 32}) {
    SCOPED_TRACE(bits);
    const ComputeMode mode = repeatable(FloatChoice::kBf16);
    const Result none = run(spec, mode, bits, bits, shape);
    const Result block = run(spec, mode, bits, bits, shape, Recompute::kBlock);
    const Result selective = run(spec, mode, bits, bits, shape, Recompute::kSelective);
    expect_same_bits(block, none);
    expect_same_bits(selective, none);
    // A block keeps about 30 bytes a token and channel at 8 bits, its inputs 4, GELU's coded output 4.
    EXPECT_LT(static_cast<double>(block.peak_bytes), 0.7 * static_cast<double>(none.peak_bytes));
    EXPECT_LT(static_cast<double>(selective.peak_bytes), 0.97 * static_cast<double>(none.peak_bytes));
  }
}

TEST(GpuRecompute, ChangesNoBitOperatorByOperator) {
  TinyModel spec = model_of(/*layers=*/3, /*width=*/64);
  spec.quant.activation.symmetric = false;
  const Result none = run(spec, repeatable(FloatChoice::kBf16), 6, 8);
  expect_same_bits(run(spec, repeatable(FloatChoice::kBf16), 6, 8, {}, Recompute::kBlock), none);
  expect_same_bits(run(spec, repeatable(FloatChoice::kBf16), 6, 8, {}, Recompute::kSelective), none);
}

TEST(GpuRecompute, LeavesTheBaseFrozen) {
  TinyModel spec = model_of(/*layers=*/3, /*width=*/64);
  spec.config.freeze_base = true;
  expect_same_bits(run(spec, repeatable(FloatChoice::kBf16), 8, 8, {}, Recompute::kBlock),
                   run(spec, repeatable(FloatChoice::kBf16), 8, 8));
}

// Codes and values come out of the same fused kernels, and ranks that no product takes are filled up with zeros.
TEST(GpuAdapters, OfRawInputsAndOfAnyRankFuseAndAreTheCpus) {
  struct Variant {
    std::int64_t rank;
    AdapterInput input;
    bool quantize;
  };
  for (const auto& [rank, input, quantize] :
       {Variant{16, AdapterInput::kRaw, true}, Variant{16, AdapterInput::kRaw, false},
        Variant{12, AdapterInput::kRaw, false}, Variant{12, AdapterInput::kQuantized, true},
        Variant{3, AdapterInput::kQuantized, true}, Variant{3, AdapterInput::kRaw, true}}) {
    SCOPED_TRACE("rank " + std::to_string(rank) + " " + enum_name(input) + (quantize ? " quantized" : " floats"));
    TinyModel spec = model_of(/*layers=*/2, /*width=*/64);
    spec.lora = {.rank = rank, .alpha = 32.0, .quantize = quantize, .input = input};
    for (const int bits : {8, 4}) {
      SCOPED_TRACE(bits);
      const Result cpu = run(spec, {}, bits, 8), gpu = run(spec, repeatable(FloatChoice::kFp32), bits, 8);
      EXPECT_EQ(gpu.fused, 2);
      // At 4 bits a value that lies between two codes for one device is a fifteenth of the range away for the other.
      expect_close(gpu, cpu, 1e-3, bits == 8 ? 2e-2 : 2e-1);
      const Result bf16 = run(spec, repeatable(FloatChoice::kBf16), bits, 8);
      EXPECT_EQ(bf16.fused, 2);
      expect_close(bf16, cpu, 1e-2, bits == 8 ? 1e-1 : 6e-1);
      expect_same_bits(run(spec, repeatable(FloatChoice::kBf16), bits, 8, {}, Recompute::kBlock), bf16);
      expect_same_bits(run(spec, repeatable(FloatChoice::kBf16), bits, 8, {}, Recompute::kSelective), bf16);
    }
    spec.config.freeze_base = true;
    expect_close(run(spec, repeatable(FloatChoice::kFp32), 8, 8), run(spec, {}, 8, 8), 1e-3, 2e-2);
  }
}

// Operator by operator: quantizers without codes, gradients that are not rounded.
TEST(GpuAdapters, OfRawInputsAreTheCpusWithoutFusion) {
  TinyModel spec = model_of(/*layers=*/2, /*width=*/64);
  spec.lora = {.rank = 12, .alpha = 32.0, .quantize = true, .input = AdapterInput::kRaw};
  expect_close(run(spec, repeatable(FloatChoice::kFp32), 8, 32), run(spec, {}, 8, 32), 1e-3, 2e-2);
  spec.quant.activation.symmetric = false;
  expect_close(run(spec, repeatable(FloatChoice::kFp32), 8, 8), run(spec, {}, 8, 8), 1e-3, 2e-2);
  spec.config.quantize_lm_head = true;
  expect_close(run(spec, repeatable(FloatChoice::kFp32), 8, 8), run(spec, {}, 8, 8), 1e-3, 2e-2);
}

TEST(GpuKvBits, GradientsAreTheCpus) {
  TinyModel spec = model_of(/*layers=*/2, /*width=*/64);
  const Result off = run(spec, {}, 8, 8);
  for (const int bits : {8, 4}) {
    SCOPED_TRACE(bits);
    spec.quant.kv_bits = bits;
    const Result cpu = run(spec, {}, 8, 8);
    EXPECT_NE(cpu.loss, off.loss);
    // A value on a rounding boundary may get another code; at 4 bits one code is a large step.
    expect_close(run(spec, repeatable(FloatChoice::kFp32), 8, 8), cpu, 1e-3, bits == 8 ? 2e-2 : 1e-1);
    expect_close(run(spec, make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kFastest), 8, 8), cpu,
                 1e-2, bits == 8 ? 1e-1 : 4e-1);
  }
}

TEST(GpuQuantizedHead, LossAndGradientsAreTheCpus) {
  for (const std::int64_t rank : {16, 0}) {
    for (const bool tied : {true, false}) {
      SCOPED_TRACE(std::to_string(rank) + (tied ? " tied" : " own"));
      TinyModel spec = model_of(/*layers=*/1, /*width=*/64);
      spec.config.quantize_lm_head = true;
      spec.config.tie_lm_head = tied;
      spec.lora.rank = rank;
      const Result cpu = run(spec, {}, 8, 8);
      expect_close(run(spec, make_compute_mode(/*cuda=*/true, FloatChoice::kFp32, AttentionChoice::kFastest), 8, 8),
                   cpu, 1e-3, 2e-2);
      expect_close(run(spec, make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kFastest), 8, 8),
                   cpu, 1e-2, 1e-1);
    }
  }
}

// With the vocabulary of GPT-2 the logits of these tokens are 206 MB in bf16, and one chunk; operator by operator they
// and their gradients would be there several times over, in fp32 too.
TEST(GpuQuantizedHead, TakesNoMoreMemoryThanAnUnquantizedOne) {
  TinyModel spec = model_of(/*layers=*/1, /*width=*/256);
  spec.config.vocab_size = 50257;
  const Shape shape{.batch = 16, .length = 128};
  const Result plain =
      run(spec, make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kFastest), 8, 8, shape);
  spec.config.quantize_lm_head = true;
  const Result coded =
      run(spec, make_compute_mode(/*cuda=*/true, FloatChoice::kBf16, AttentionChoice::kFastest), 8, 8, shape);
  EXPECT_LT(static_cast<double>(coded.peak_bytes), 1.3 * static_cast<double>(plain.peak_bytes));
  EXPECT_NEAR(coded.loss, plain.loss, 0.05 * plain.loss);
}

}  // namespace
}  // namespace qat

// Text on a GPU: with and without the cache, recorded or not, and beside a CPU's.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "src/generate/generator.h"
#include "src/quant/torch_device.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

class CudaFirst : public ::testing::Environment {
 public:
  void SetUp() override { use_cuda(0); }
};
const auto* const kCudaFirst = ::testing::AddGlobalTestEnvironment(new CudaFirst);

using Texts = std::vector<std::vector<int>>;

// Two fused blocks wide enough for every kind of product, with an adapter.
Texts texts(const ComputeMode& mode, int bits, const GenerateOptions& options) {
  test::TinyModel spec;
  spec.config = {.preset = "", .n_layer = 2, .n_head = 2, .n_embd = 128, .n_positions = 160, .vocab_size = 131};
  spec.lora = {.rank = 16, .alpha = 32.0};
  Gpt2 model(spec.config, spec.lora, spec.quant, /*pad_to=*/1024, mode);
  torch::manual_seed(9);
  for (int id = 0; id < model.parameters().count(); ++id) {
    const ParameterInfo& info = model.parameters().info(id);
    const bool norm_weight = info.name.find("ln_") != std::string::npos && info.name.ends_with("weight");
    const at::Tensor values = at::randn(info.shape) * (info.shape.size() == 1 ? 0.1 : 0.15) + (norm_weight ? 1.0 : 0.0);
    model.parameters().set_values(id, {values.const_data_ptr<float>(), static_cast<std::size_t>(values.numel())});
  }
  const PrecisionMap map = PrecisionMap::uniform(spec.config.linears(), bits, bits, BitWidth::kFull, bits);
  WeightCache weights;
  const ForwardContext context{.precision = &map, .weight_cache = &weights};
  const std::vector<Prompt> prompts = {{{3, 1, 4, 1, 5, 9, 2, 6}, 0}, {{7}, 1}, {std::vector<int>(70, 11), 2}};
  Texts all;
  for (const GeneratedText& text : generate(model, context, prompts, options)) all.push_back(text.tokens);
  return all;
}

ComputeMode mode_of(bool cuda, FloatChoice dtype) { return make_compute_mode(cuda, dtype, AttentionChoice::kFastest); }

// A choice between two tokens that are all but equally likely may go either way: 90 % of what is said must be the same.
void expect_nearly_same(const Texts& got, const Texts& want) {
  std::size_t same = 0, all = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(got[i].size(), want[i].size());
    for (std::size_t t = 0; t < want[i].size() && got[i][t] == want[i][t]; ++t) ++same;
    all += want[i].size();
  }
  EXPECT_GE(10 * same, 9 * all) << same << " of " << all;
}

TEST(GpuGeneration, SaysWhatACpuSays) {
  for (const int bits : {8, 32})
    expect_nearly_same(texts(mode_of(true, FloatChoice::kFp32), bits, {.max_new_tokens = 24}),
                       texts(mode_of(false, FloatChoice::kAuto), bits, {.max_new_tokens = 24}));
}

TEST(GpuGeneration, TheCacheChangesNoText) {
  for (const int bits : {4, 8, 32})
    expect_nearly_same(texts(mode_of(true, FloatChoice::kFp32), bits, {.max_new_tokens = 24}),
                       texts(mode_of(true, FloatChoice::kFp32), bits, {.max_new_tokens = 24, .cache = false}));
}

const kernels::SamplingOptions kDrawn{.temperature = 1.0, .top_k = 20, .top_p = 0.95, .repetition_penalty = 1.1};

// A recorded pass is the same kernels: equal bits, and equal texts, also of what is drawn for each token anew.
TEST(GpuGeneration, ARecordedPassChangesNothing) {
  for (const FloatChoice dtype : {FloatChoice::kFp32, FloatChoice::kBf16})
    for (const int bits : {4, 8, 32})
      for (const kernels::SamplingOptions& sampling : {kernels::SamplingOptions{}, kDrawn})
        for (int repeat = 0; repeat < 2; ++repeat)
          EXPECT_EQ(texts(mode_of(true, dtype), bits, {.max_new_tokens = 80, .sampling = sampling, .graph = true}),
                    texts(mode_of(true, dtype), bits, {.max_new_tokens = 80, .sampling = sampling, .graph = false}))
              << bits;
}

TEST(GpuGeneration, DrawsWhatACpuDraws) {
  for (const int bits : {8, 32})
    expect_nearly_same(texts(mode_of(true, FloatChoice::kFp32), bits, {.max_new_tokens = 24, .sampling = kDrawn}),
                       texts(mode_of(false, FloatChoice::kAuto), bits, {.max_new_tokens = 24, .sampling = kDrawn}));
}

}  // namespace
}  // namespace qat

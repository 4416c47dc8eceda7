// Activation checkpointing: the same bits from less memory.
#include "src/model/recompute.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "kernels/common/error.h"
#include "src/quant/torch_parallel.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;
using Tensors = std::vector<at::Tensor>;

TEST(RecomputedSegment, RunsOnceForwardAndOnceMoreForBackward) {
  int runs = 0;
  const Segment segment = [&](const Tensors& in) -> Tensors {
    ++runs;
    return {in[0] * in[0], in[0] + 1.0};
  };
  const at::Tensor x = at::full({3}, 2.0).requires_grad_(true);
  const Tensors out = recomputed(segment, {x}, {});
  EXPECT_EQ(runs, 1);
  (out[0] * 3.0 + out[1]).sum().backward();
  EXPECT_EQ(runs, 2);
  EXPECT_TRUE(at::equal(x.grad(), at::full({3}, 13.0)));  // 3 * 2x + 1

  const at::NoGradGuard no_grad;
  (void)recomputed(segment, {x}, {});
  EXPECT_EQ(runs, 3);
}

TEST(RecomputedSegment, LeavesParametersThatItDoesNotUseWithoutGradient) {
  const at::Tensor x = at::ones({2}), used = at::ones({2}).requires_grad_(true), frozen = at::ones({2}),
                   unused = at::ones({2}).requires_grad_(true);
  const Segment segment = [&](const Tensors& in) -> Tensors { return {in[0] * used * frozen}; };
  const at::Tensor y = recomputed(segment, {x}, {used, frozen, unused})[0].sum();
  const Tensors gradients = torch::autograd::grad({y}, {used, unused}, {}, false, false, /*allow_unused=*/true);
  EXPECT_TRUE(at::equal(gradients[0], at::ones({2})));
  EXPECT_FALSE(gradients[1].defined());
  EXPECT_FALSE(used.grad().defined());  // nothing is added to the parameters themselves
}

TEST(RecomputedSegment, KeepsNoIntermediateResult) {
  c10::weak_intrusive_ptr<at::TensorImpl> inside(at::ones({1}).getIntrusivePtr());
  const Segment segment = [&](const Tensors& in) -> Tensors {
    const at::Tensor exponential = at::exp(in[0]);
    inside = c10::weak_intrusive_ptr<at::TensorImpl>(exponential.getIntrusivePtr());
    return {at::sin(exponential)};
  };
  const at::Tensor x = at::ones({4}).requires_grad_(true);
  const at::Tensor plain = segment({x})[0];
  EXPECT_FALSE(inside.expired());  // sin keeps its input for backward
  const at::Tensor again = recomputed(segment, {x}, {})[0];
  EXPECT_TRUE(inside.expired());
  EXPECT_TRUE(at::equal(plain, again));
}

struct Case {
  int bits, gradient_bits, kv_bits;
  bool freeze_base;
};

struct PassResult {
  at::Tensor loss;
  Tensors gradients;
};

PassResult run(const Case& c, Recompute recompute) {
  TinyModel tiny;
  tiny.config.n_layer = 3;
  tiny.config.embd_dropout = tiny.config.attn_dropout = tiny.config.resid_dropout = 0.1;
  tiny.config.freeze_base = c.freeze_base;
  tiny.model = std::make_unique<Gpt2>(tiny.config, tiny.lora, tiny.quant, /*pad_to=*/8, ComputeMode{}, recompute);
  tiny.randomize();
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), c.bits, c.bits, c.gradient_bits, c.kv_bits);
  WeightCache cache;
  ForwardContext context = tiny.context(map);
  context.training = true;
  context.weight_cache = &cache;
  LossAndGradients pass = tiny.pass(context);
  return {pass.loss, std::move(pass.gradients.parameters)};
}

TEST(RecomputeMode, ChangesNoBitOfLossAndGradients) {
  for (const Case& c : {Case{8, 8, 32, false}, Case{8, 32, 32, false}, Case{4, 6, 4, false}, Case{32, 32, 32, false},
                        Case{12, 8, 8, false}, Case{8, 8, 32, true}, Case{32, 32, 32, true}}) {
    const PassResult want = run(c, Recompute::kNone);
    for (const Recompute mode : {Recompute::kBlock, Recompute::kSelective}) {
      SCOPED_TRACE(std::to_string(c.bits) + " bits, mode " + std::to_string(static_cast<int>(mode)));
      const PassResult got = run(c, mode);
      EXPECT_TRUE(at::equal(got.loss, want.loss));
      ASSERT_EQ(got.gradients.size(), want.gradients.size());
      for (std::size_t i = 0; i < want.gradients.size(); ++i) {
        ASSERT_EQ(got.gradients[i].defined(), want.gradients[i].defined()) << i;
        if (!want.gradients[i].defined()) continue;
        EXPECT_TRUE(at::equal(got.gradients[i], want.gradients[i])) << i;
      }
    }
  }
}

// A rank's threads run passes at the same time, each with a backward inside its backward, on one cache.
TEST(RecomputeMode, ChangesNoBitOfPassesSideBySide) {
  TinyModel tiny;
  tiny.config.resid_dropout = 0.1;
  tiny.model =
      std::make_unique<Gpt2>(tiny.config, tiny.lora, tiny.quant, /*pad_to=*/8, ComputeMode{}, Recompute::kBlock);
  tiny.randomize();
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), 6, 6, 8);
  const at::Tensor tokens = tiny.tokens(2, 9), targets = tiny.tokens(2, 9, 8);
  WeightCache cache;
  const auto pass = [&](std::int64_t micro_batch) {
    ForwardContext context = tiny.context(map);
    context.training = true;
    context.weight_cache = &cache;
    context.micro_batch = static_cast<std::uint64_t>(micro_batch);
    return tiny.model->loss_and_gradients({.tokens = tokens}, targets, context).gradients.parameters;
  };
  constexpr std::int64_t kPasses = 8;
  std::vector<Tensors> alone(kPasses), together(kPasses);
  for (std::int64_t i = 0; i < kPasses; ++i) alone[static_cast<std::size_t>(i)] = pass(i);
  run_torch_parallel(kPasses, /*threads=*/4, [&](std::int64_t i) { together[static_cast<std::size_t>(i)] = pass(i); });
  for (std::size_t i = 0; i < alone.size(); ++i) {
    for (std::size_t j = 0; j < alone[i].size(); ++j) EXPECT_TRUE(at::equal(together[i][j], alone[i][j])) << i;
  }
}

// A fused block by itself: its kernels have CPU twins, though a model takes it on GPUs alone.
FusedBlock fused_block_of(const TinyModel& tiny, const ForwardContext& context) {
  const auto& store = tiny.model->parameters();
  const auto linears = tiny.model->linears();
  const auto norm = [&](const std::string& name) {
    return FusedNorm{.weight = store.tensor(tiny.id_of("transformer.h.0." + name + ".weight")),
                     .bias = store.tensor(tiny.id_of("transformer.h.0." + name + ".bias"))};
  };
  return {.ln_1 = norm("ln_1"),
          .c_attn = linears[0].pass(context, at::kFloat),
          .attn_proj = linears[1].pass(context, at::kFloat),
          .ln_2 = norm("ln_2"),
          .c_fc = linears[2].pass(context, at::kFloat),
          .mlp_proj = linears[3].pass(context, at::kFloat)};
}

Tensors parameters_of(const FusedBlock& block) {
  Tensors all = {block.ln_1.weight, block.ln_1.bias, block.ln_2.weight, block.ln_2.bias};
  for (const LinearPass* linear : {&block.c_attn, &block.attn_proj, &block.c_fc, &block.mlp_proj}) {
    const Tensors own = linear->parameters();
    all.insert(all.end(), own.begin(), own.end());
  }
  return all;
}

Tensors fused_gradients(const TinyModel& tiny, int bits, bool keep_gelu, bool again) {
  const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), bits, bits, bits == 32 ? 32 : 8);
  const FusedBlock block = fused_block_of(tiny, tiny.context(map));
  torch::manual_seed(1);
  const at::Tensor residual = at::randn({6, tiny.config.n_embd}).requires_grad_(true),
                   delta = at::randn({6, tiny.config.n_embd}).requires_grad_(true);
  const Segment segment = [&](const Tensors& in) -> Tensors {
    const FirstHalf first = fused_first_half({.residual = in[0], .delta = in[1]}, block.ln_1, block.c_attn);
    const ResidualPair out =
        fused_second_half(first.residual, first.q * first.k + first.v, block, keep_gelu);  // stands for attention
    return {out.residual, out.delta};
  };
  const Tensors out = again ? recomputed(segment, {residual, delta}, parameters_of(block)) : segment({residual, delta});
  Tensors wanted = parameters_of(block);
  wanted.push_back(residual), wanted.push_back(delta);
  Tensors all = torch::autograd::grad({at::sin(out[0]).sum() + at::cos(out[1]).sum()}, wanted);
  all.push_back(out[0]), all.push_back(out[1]);
  return all;
}

TEST(RecomputeMode, ChangesNoBitOfAFusedBlock) {
  TinyModel tiny;
  tiny.build();
  tiny.randomize();
  for (const int bits : {8, 4, 32}) {
    SCOPED_TRACE(bits);
    const Tensors want = fused_gradients(tiny, bits, /*keep_gelu=*/true, /*again=*/false);
    const Tensors selective = fused_gradients(tiny, bits, /*keep_gelu=*/false, /*again=*/false);
    const Tensors block = fused_gradients(tiny, bits, /*keep_gelu=*/true, /*again=*/true);
    for (std::size_t i = 0; i < want.size(); ++i) {
      EXPECT_TRUE(at::equal(selective[i], want[i])) << i;
      EXPECT_TRUE(at::equal(block[i], want[i])) << i;
    }
  }
}

}  // namespace
}  // namespace qat

// A model cut into stages computes what the whole model does, bit for bit: layers keep their numbers, and with them
// their names, widths and random draws, wherever the cut is.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <map>
#include <memory>

#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

constexpr std::int64_t kLayers = 3;

std::unique_ptr<Gpt2> stage_of(const TinyModel& whole, const StageRange& range) {
  auto stage = std::make_unique<Gpt2>(whole.config, whole.lora, whole.quant, /*pad_to=*/8, ComputeMode{},
                                      Recompute::kNone, range);
  for (int id = 0; id < stage->parameters().count(); ++id)
    stage->parameters().set_values(
        id, whole.model->parameters().host_values(whole.id_of(stage->parameters().info(id).name)));
  return stage;
}

using ByName = std::map<std::string, at::Tensor>;

void add_by_name(const Gpt2& model, const StageGradients& gradients, ByName& sums) {
  std::size_t next = 0;
  for (const ParameterInfo& info : model.parameters().infos()) {
    if (!info.trainable) continue;
    const at::Tensor& g = gradients.parameters.at(next++);
    if (!g.defined()) continue;
    at::Tensor& sum = sums[info.name];
    sum = sum.defined() ? sum + g : g;
  }
}

TinyModel whole_model(bool tied, bool quantized_head) {
  TinyModel whole;
  whole.config.n_layer = kLayers;
  whole.config.tie_lm_head = tied;
  whole.config.quantize_lm_head = quantized_head;
  whole.config.embd_dropout = whole.config.attn_dropout = whole.config.resid_dropout = 0.1;
  whole.build();
  whole.randomize();
  return whole;
}

TEST(Stages, TwoStagesHaveTheBitsOfOne) {
  for (const bool tied : {true, false}) {
    for (const bool quantized_head : {true, false}) {
      const TinyModel whole = whole_model(tied, quantized_head);
      // Widths by layer, and stochastic rounding: a layer that takes another's number computes something else.
      const PrecisionMap map =
          PrecisionMap::make(whole.model->linear_names(), {BitWidth(6), BitWidth(6), BitWidth(8)},
                             {{.layers = "h.1.*", .weight_bits = 4}, {.layers = "h.2.*", .activation_bits = 8}});
      ForwardContext context = whole.context(map);
      context.training = true;
      const LossAndGradients want = whole.pass(context);
      ByName expected;
      add_by_name(*whole.model, want.gradients, expected);
      for (std::int64_t cut = 0; cut <= kLayers; ++cut) {
        SCOPED_TRACE("cut at " + std::to_string(cut) + (tied ? " tied" : "") + (quantized_head ? " quantized" : ""));
        const auto first = stage_of(whole, {.chunks = {{0, cut}}, .embeds = true, .heads = false});
        const auto second = stage_of(whole, {.chunks = {{cut, kLayers}}, .embeds = false, .heads = true});
        const StagePass pass = first->forward({.tokens = whole.tokens(2, 9)}, context);
        const LossAndGradients last =
            second->loss_and_gradients({.states = pass.output}, whole.tokens(2, 9, 8), context);
        EXPECT_EQ(last.loss.item<float>(), want.loss.item<float>());
        ByName got;
        const StageGradients of_first = first->backward(pass, last.gradients.states);
        ASSERT_EQ(of_first.embedded.defined(), tied);
        if (tied) {
          const ParameterInfo& table = second->parameters().info(second->table_id());
          second->add_embedding_gradient(last.gradients.parameters.at(static_cast<std::size_t>(table.trainable_index)),
                                         whole.tokens(2, 9), of_first.embedded);
        }
        add_by_name(*second, last.gradients, got);
        add_by_name(*first, of_first, got);
        ASSERT_EQ(got.size(), expected.size());
        for (const auto& [name, gradient] : expected) EXPECT_TRUE(at::equal(got.at(name), gradient)) << name;
      }
    }
  }
}

TEST(Stages, AStageHasItsOwnLayersUnderTheirNumbers) {
  const TinyModel whole = whole_model(/*tied=*/true, /*quantized_head=*/true);
  const auto middle = stage_of(whole, {.chunks = {{1, 2}}, .embeds = false, .heads = false});
  EXPECT_EQ(middle->linear(4).spec().name, "h.1.attn.c_attn");
  EXPECT_EQ(middle->linear(7).spec().name, "h.1.mlp.c_proj");
  EXPECT_THROW((void)middle->linear(3), Error);
  EXPECT_THROW((void)middle->linear(12), Error);
  for (const ParameterInfo& info : middle->parameters().infos())
    EXPECT_TRUE(info.name.starts_with("transformer.h.1.")) << info.name;
  const auto last = stage_of(whole, {.chunks = {{3, kLayers}}, .embeds = false, .heads = true});
  EXPECT_EQ(last->linear(12).spec().name, "lm_head");
}

TEST(Stages, ATableOfBothEndsIsTrainedByTheLastStage) {
  const TinyModel whole = whole_model(/*tied=*/true, /*quantized_head=*/false);
  const auto first = stage_of(whole, {.chunks = {{0, 1}}, .embeds = true, .heads = false});
  const auto last = stage_of(whole, {.chunks = {{1, kLayers}}, .embeds = false, .heads = true});
  const ParameterInfo& copy = first->parameters().info(first->table_id());
  EXPECT_TRUE(copy.copy);
  EXPECT_FALSE(copy.trainable);
  EXPECT_TRUE(last->parameters().info(last->table_id()).trainable);
  EXPECT_FALSE(last->parameters().info(last->table_id()).copy);
  EXPECT_THROW(first->add_embedding_gradient(at::zeros({1}), whole.tokens(2, 9), at::zeros({1})), Error);
}

TEST(Stages, AnOutlineHasNamesAndShapesAndNoMemory) {
  const TinyModel whole = whole_model(/*tied=*/true, /*quantized_head=*/true);
  const Gpt2 outline(whole.config, whole.lora, whole.quant, /*pad_to=*/8, ComputeMode{}, Recompute::kNone,
                     {.outline = true});
  ASSERT_EQ(outline.parameters().count(), whole.model->parameters().count());
  for (int id = 0; id < outline.parameters().count(); ++id) {
    EXPECT_EQ(outline.parameters().info(id).name, whole.model->parameters().info(id).name);
    EXPECT_EQ(outline.parameters().tensor(id).sizes(), whole.model->parameters().tensor(id).sizes());
    EXPECT_TRUE(outline.parameters().tensor(id).is_meta());
  }
}

TEST(Stages, WhatEntersMustBeWhatTheStageTakes) {
  const TinyModel whole = whole_model(/*tied=*/true, /*quantized_head=*/false);
  const PrecisionMap map = PrecisionMap::uniform(whole.config.linears(), 8, 8, 8);
  const auto later = stage_of(whole, {.chunks = {{1, kLayers}}, .embeds = false, .heads = true});
  EXPECT_THROW((void)later->forward({.tokens = whole.tokens(2, 9)}, whole.context(map)), Error);
  const at::Tensor tokens = whole.tokens(2, 9), states = whole.model->embeddings(tokens);
  EXPECT_THROW((void)whole.model->forward({.tokens = tokens, .states = states}, whole.context(map)), Error);
  EXPECT_THROW((void)whole.model->forward({}, whole.context(map)), Error);
  // Where tokens are embedded, their embeddings may enter in their place.
  const at::NoGradGuard no_grad;
  EXPECT_TRUE(at::equal(whole.model->forward({.states = states}, whole.context(map)).output,
                        whole.model->forward({.tokens = tokens}, whole.context(map)).output));
  const auto earlier = stage_of(whole, {.chunks = {{0, 1}}, .embeds = true, .heads = false});
  EXPECT_THROW(
      (void)earlier->loss_and_gradients({.tokens = whole.tokens(2, 9)}, whole.tokens(2, 9, 8), whole.context(map)),
      Error);
}

}  // namespace
}  // namespace qat

// Adapters and layer norms that each width has for itself.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>
#include <string>

#include "dist/comm/local_comm.h"
#include "tests/support/tiny_model.h"

namespace qat {
namespace {

using test::TinyModel;

TinyModel switchable(bool quantized_head = false) {
  TinyModel tiny;
  tiny.quant.widths = {3, 5, 8, 32};
  tiny.lora.slots = tiny.config.norm_slots = Slots::kPerWidth;
  tiny.config.quantize_lm_head = quantized_head;
  tiny.build();
  tiny.randomize();
  return tiny;
}

// The name that a width's own parameter has where widths share it.
std::string shared_name(std::string name, int bits) {
  const std::string slot = "." + width_slot(bits) + ".";
  if (const std::size_t at = name.find(slot); at != std::string::npos) name.replace(at, slot.size(), ".");
  return name;
}

// A model whose shared slots have the values that `tiny` has at the widths `bits_of` says by parameter name.
template <typename BitsOf>
TinyModel shared_like(const TinyModel& tiny, const BitsOf& bits_of) {
  TinyModel out;
  out.quant = tiny.quant;
  out.config.quantize_lm_head = tiny.config.quantize_lm_head;
  out.build();
  for (int id = 0; id < out.model->parameters().count(); ++id) {
    const std::string& name = out.model->parameters().info(id).name;
    for (int other = 0; other < tiny.model->parameters().count(); ++other) {
      const std::string& theirs = tiny.model->parameters().info(other).name;
      const int bits = bits_of(name);
      const bool own = theirs.find("." + width_slot(bits) + ".") != std::string::npos;
      if (own ? shared_name(theirs, bits) == name : theirs == name)
        out.model->parameters().set_values(id, tiny.model->parameters().host_values(other));
    }
  }
  return out;
}

TEST(Slots, HaveNamesOfTheirWidthsAndTheUnquantizedNormTheUsualOne) {
  const TinyModel tiny = switchable(/*quantized_head=*/true);
  std::set<std::string> names;
  for (const ParameterInfo& info : tiny.model->parameters().infos()) names.insert(info.name);
  for (const char* name :
       {"transformer.h.1.ln_2.weight", "transformer.h.1.ln_2.w3.bias", "transformer.ln_f.w8.weight",
        "transformer.h.0.mlp.c_proj.lora_A.w5.weight", "lm_head.lora_B.w3.weight", "transformer.ln_f.bias"})
    EXPECT_TRUE(names.contains(name)) << name;
  for (const char* name : {"transformer.h.0.mlp.c_proj.lora_A.weight", "transformer.h.0.mlp.c_proj.lora_A.w32.weight",
                           "transformer.ln_f.w32.bias"})
    EXPECT_FALSE(names.contains(name)) << name;
}

TEST(Slots, AWidthComputesWhatAModelWithItsParametersAloneDoes) {
  for (const bool quantized_head : {false, true}) {
    const TinyModel tiny = switchable(quantized_head);
    for (const int bits : {3, 5, 8, 32}) {
      const TinyModel alone = shared_like(tiny, [&](const std::string&) { return bits; });
      const PrecisionMap map =
          PrecisionMap::uniform(tiny.config.linears(), bits, bits, bits == 32 ? BitWidth::kFull : 8);
      EXPECT_EQ(tiny.backward(tiny.context(map)), alone.backward(alone.context(map))) << bits;
      for (int id = 0; id < tiny.model->parameters().count(); ++id) {
        const std::string& name = tiny.model->parameters().info(id).name;
        const at::Tensor grad = tiny.model->parameters().tensor(id).grad();
        const bool own = name.find("." + width_slot(bits) + ".") != std::string::npos;
        const bool others =
            !own && (name.find(".w3.") != std::string::npos || name.find(".w5.") != std::string::npos ||
                     name.find(".w8.") != std::string::npos || (bits != 32 && name.find(".ln_") != std::string::npos));
        if (others) {
          EXPECT_FALSE(grad.defined()) << name;
        } else {
          ASSERT_TRUE(grad.defined()) << name;
          EXPECT_TRUE(at::equal(grad, alone.grad(shared_name(name, bits)))) << name << " at " << bits;
        }
      }
    }
  }
}

TEST(Slots, ALayersOwnWidthChoosesItsAdapterAndTheNormBeforeIt) {
  const TinyModel tiny = switchable();
  const PrecisionMap map =
      PrecisionMap::make(tiny.model->linear_names(), {BitWidth(5), BitWidth(5), BitWidth(8)},
                         {{.layers = "h.1.mlp.c_fc", .weight_bits = 3}, {.layers = "h.0.attn.*", .weight_bits = 8}});
  const TinyModel alone = shared_like(tiny, [](const std::string& name) {
    if (name.find("h.1.mlp.c_fc") != std::string::npos || name.find("h.1.ln_2") != std::string::npos) return 3;
    if (name.find("h.0.attn") != std::string::npos || name.find("h.0.ln_1") != std::string::npos) return 8;
    return 5;  // ln_f goes with the pass
  });
  EXPECT_EQ(tiny.loss(tiny.context(map)), alone.loss(alone.context(map)));
  for (const FlatGroup& group : tiny.model->parameters().groups()) {
    const std::size_t g = static_cast<std::size_t>(&group - tiny.model->parameters().groups().data());
    const bool used = group.key.kind != GroupKind::kWidth || group.key.bits != 32;
    EXPECT_EQ(tiny.model->groups_used(map)[g], used) << group.key.bits;
  }
}

TEST(Slots, NamesLoseTheirWidth) {
  EXPECT_EQ(name_without_width("transformer.h.0.ln_1.w4.bias"), "transformer.h.0.ln_1.bias");
  EXPECT_EQ(name_without_width("lm_head.lora_A.w18.weight"), "lm_head.lora_A.weight");
  for (const char* name : {"transformer.wte.weight", "transformer.h.0.ln_1.bias", "x.w.weight", "x.wa.weight",
                           "w4.weight", "weight", ".weight", ""})
    EXPECT_EQ(name_without_width(name), std::nullopt) << name;
}

TEST(Slots, WidthsOfOverridesHaveSlotsToo) {
  TinyModel tiny;
  tiny.quant.widths = {4, 8};
  tiny.quant.overrides = {{.layers = "h.0.*", .weight_bits = 6}};
  tiny.lora.slots = tiny.config.norm_slots = Slots::kPerWidth;
  tiny.build();
  (void)tiny.id_of("transformer.h.1.attn.c_attn.lora_A.w6.weight");
  (void)tiny.id_of("transformer.h.0.ln_1.weight");  // unquantized passes, which evaluation may ask for
  EXPECT_TRUE(std::isfinite(tiny.loss(tiny.context(
      PrecisionMap::make(tiny.model->linear_names(), {BitWidth(8), BitWidth(8), BitWidth(8)}, tiny.quant.overrides)))));
}

// Ranks, alphas, quantized or not and inputs of each width's own.
TinyModel unequal(bool quantized_head = false) {
  TinyModel tiny;
  tiny.quant.widths = {3, 5, 8, 32};
  tiny.lora.slots = tiny.config.norm_slots = Slots::kPerWidth;
  tiny.lora.per_width = {{.bits = 3, .rank = 6, .alpha = 3.0, .quantize = false},
                         {.bits = 5, .input = AdapterInput::kRaw},
                         {.bits = 8, .rank = 0}};
  tiny.config.quantize_lm_head = quantized_head;
  tiny.build();
  tiny.randomize();
  return tiny;
}

TEST(Slots, EachWidthHasAdaptersOfItsOwnShape) {
  for (const bool quantized_head : {false, true}) {
    const TinyModel tiny = unequal(quantized_head);
    const auto shape = [&](const std::string& name) { return tiny.model->parameters().info(tiny.id_of(name)).shape; };
    EXPECT_EQ(shape("transformer.h.0.mlp.c_fc.lora_A.w3.weight"), (std::vector<std::int64_t>{6, 16}));
    EXPECT_EQ(shape("transformer.h.0.mlp.c_fc.lora_B.w3.weight"), (std::vector<std::int64_t>{64, 6}));
    EXPECT_EQ(shape("transformer.h.0.mlp.c_fc.lora_A.w5.weight"), (std::vector<std::int64_t>{4, 16}));
    for (const ParameterInfo& info : tiny.model->parameters().infos())
      EXPECT_EQ(info.name.find("lora_A.w8"), std::string::npos) << info.name;
    for (const int bits : {3, 5, 8}) {
      TinyModel alone;
      alone.quant = tiny.quant;
      alone.config.quantize_lm_head = quantized_head;
      const AdapterShape own = adapter_shape(tiny.lora, bits, 16);
      alone.lora = {.rank = own.rank, .alpha = own.alpha, .quantize = own.quantize, .input = own.input};
      alone.build();
      for (int id = 0; id < alone.model->parameters().count(); ++id) {
        const std::string name = alone.model->parameters().info(id).name;
        std::string theirs = name;
        const bool of_width = name.find("lora_") != std::string::npos || name.find(".ln_") != std::string::npos;
        if (of_width) theirs.insert(name.rfind('.'), "." + width_slot(bits));
        alone.model->parameters().set_values(id, tiny.model->parameters().host_values(tiny.id_of(theirs)));
      }
      const PrecisionMap map = PrecisionMap::uniform(tiny.config.linears(), bits, bits, 8);
      EXPECT_EQ(tiny.backward(tiny.context(map)), alone.backward(alone.context(map))) << bits;
      const std::string a = "transformer.h.1.attn.c_proj.lora_A.";
      if (own.rank > 0) {
        EXPECT_TRUE(at::equal(tiny.grad(a + width_slot(bits) + ".weight"), alone.grad(a + "weight"))) << bits;
      }
    }
  }
}

TEST(Slots, AWidthsQuantizerIsThatOfAModelThatHasNoOther) {
  TinyModel mixed, minmax, log;
  mixed.quant.weight.by_width = mixed.quant.activation.by_width = {{5, QuantizerKind::kLog}, {8, QuantizerKind::kLog}};
  log.quant.weight.method = log.quant.activation.method = QuantizerKind::kLog;
  for (TinyModel* one : {&mixed, &minmax, &log}) one->build(), one->randomize();
  for (const int bits : {3, 4, 5, 8}) {
    const PrecisionMap map = PrecisionMap::uniform(mixed.config.linears(), bits, bits, 8);
    const auto loss = [&](const TinyModel& model) { return model.loss(model.context(map)); };
    EXPECT_EQ(loss(mixed), loss(bits < 5 ? minmax : log)) << bits;
    EXPECT_NE(loss(mixed), loss(bits < 5 ? log : minmax)) << bits;
  }
  // A layer whose weights and inputs have different widths takes the method of each.
  const PrecisionMap map = PrecisionMap::uniform(mixed.config.linears(), 4, 8, 8);
  log.quant.weight.method = QuantizerKind::kMinMax;
  log.build(), log.randomize();
  EXPECT_EQ(mixed.loss(mixed.context(map)), log.loss(log.context(map)));
}

TEST(Slots, AdaptersBeginWithinTheBoundsOfTheirFanInWhateverTheirRank) {
  TinyModel tiny = unequal();
  tiny.build(/*seed=*/9);
  for (const ParameterInfo& info : tiny.model->parameters().infos()) {
    const at::Tensor& values = tiny.model->parameters().tensor(tiny.id_of(info.name));
    if (info.name.find("lora_B") != std::string::npos) {
      EXPECT_EQ(values.abs().max().item<float>(), 0.0F) << info.name;
    }
    if (info.name.find("lora_A") == std::string::npos) continue;
    const double bound = 1.0 / std::sqrt(static_cast<double>(info.shape[1]));
    EXPECT_LE(values.abs().max().item<double>(), bound) << info.name;
    EXPECT_GT(values.abs().max().item<double>(), 0.8 * bound) << info.name;
  }
}

// --- shared out over ranks -------------------------------------------------------------------------------------------

std::int64_t held_bytes(const Gpt2& model) {
  std::int64_t bytes = 0;
  for (const FlatGroup& group : model.parameters().groups()) {
    bytes += static_cast<std::int64_t>(group.values.storage().nbytes());
    if (group.is_sharded()) bytes += static_cast<std::int64_t>(group.own.storage().nbytes());
  }
  return bytes;
}

TEST(Slots, SharedOutOverRanksTheyComeBackAsTheyWere) {
  const TinyModel whole = switchable();
  const at::Tensor inputs = whole.tokens(2, 9), targets = whole.tokens(2, 9, 8);
  const auto loss_of = [&](const Gpt2& model, const PrecisionMap& map) {
    return model.loss_and_gradients({.tokens = inputs}, targets, whole.context(map)).loss.item<float>();
  };
  for (const int ranks : {1, 2, 3, 4}) {
    dist::run_local_ranks(ranks, [&](dist::Communicator& comm) {
      Gpt2 model(whole.config, whole.lora, whole.quant, /*pad_to=*/4096 * ranks);
      ParameterStore& store = model.parameters();
      const auto set = [&](int id) { store.set_values(id, whole.model->parameters().host_values(id)); };
      // Some before they are shared out, others after.
      for (int id = 0; id < store.count(); id += 2) set(id);
      const std::int64_t before = held_bytes(model);
      store.shard({.rank = comm.rank(), .ranks = ranks});
      for (int id = 1; id < store.count(); id += 2) set(id);
      if (ranks > 1) EXPECT_LT(held_bytes(model), before);
      const std::int64_t apart = held_bytes(model);
      for (const int bits : {3, 8, 32, 3}) {
        const PrecisionMap map = PrecisionMap::uniform(whole.config.linears(), bits, bits);
        store.gather(model.groups_used(map), comm);
        for (int id = 0; id < store.count(); ++id) {
          const int group = store.info(id).group_index;
          if (!model.groups_used(map)[static_cast<std::size_t>(group)]) continue;
          EXPECT_EQ(store.host_values(id), whole.model->parameters().host_values(id)) << store.info(id).name;
        }
        EXPECT_EQ(loss_of(model, map), loss_of(*whole.model, map)) << bits << " bits, " << ranks << " ranks";
      }
      store.gather(std::vector<bool>(store.groups().size(), false), comm);
      EXPECT_EQ(held_bytes(model), apart);
      if (ranks > 1) EXPECT_THROW((void)store.host_values(whole.id_of("transformer.ln_f.w8.weight")), Error);
    });
  }
}

}  // namespace
}  // namespace qat

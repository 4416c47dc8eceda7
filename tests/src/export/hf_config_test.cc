#include "src/export/hf_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/common/error.h"

namespace qat {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// gpt2's own, with a key that came later.
json published() {
  return json::parse(R"({
    "activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "bos_token_id": 50256,
    "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12, "n_layer": 12, "n_positions": 1024,
    "resid_pdrop": 0.1, "summary_activation": null, "summary_first_dropout": 0.1, "summary_proj_to_labels": true,
    "summary_type": "cls_index", "summary_use_proj": true,
    "task_specific_params": {"text-generation": {"do_sample": true, "max_length": 50}}, "vocab_size": 50257})");
}

std::string error_of(const json& config) {
  try {
    (void)parse_hf_config(config.dump(), "config.json");
    return {};
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kData);
    return error.what();
  }
}

TEST(HfConfig, ThePublishedOneGivesTheSizes) {
  const HfConfig config = parse_hf_config(published().dump(), "config.json");
  EXPECT_EQ(config.model.n_layer, 12);
  EXPECT_EQ(config.model.n_head, 12);
  EXPECT_EQ(config.model.n_embd, 768);
  EXPECT_EQ(config.model.n_positions, 1024);
  EXPECT_EQ(config.model.vocab_size, 50257);
  EXPECT_TRUE(config.model.tie_lm_head);
  EXPECT_FALSE(config.tied.has_value());
  EXPECT_THAT(config.notes, IsEmpty());
}

TEST(HfConfig, OldFilesNameThePositionsOtherwiseAndUnknownKeysAreSaid) {
  json config = published();
  config.erase("n_positions");
  config["tie_word_embeddings"] = false;
  config["my_key"] = 3;
  const HfConfig read = parse_hf_config(config.dump(), "config.json");
  EXPECT_EQ(read.model.n_positions, 1024);
  EXPECT_EQ(read.tied, false);
  EXPECT_FALSE(read.model.tie_lm_head);
  EXPECT_THAT(read.notes, ElementsAre(HasSubstr("my_key")));
}

TEST(HfConfig, WhatThisProgramDoesNotComputeIsRefusedByName) {
  for (const auto& [key, value] : std::vector<std::pair<std::string, json>>{{"model_type", "llama"},
                                                                            {"model_type", nullptr},
                                                                            {"activation_function", "gelu"},
                                                                            {"layer_norm_epsilon", 1e-6},
                                                                            {"n_inner", 1024},
                                                                            {"n_head", 7},
                                                                            {"n_layer", 0},
                                                                            {"n_layer", 1e9},
                                                                            {"n_embd", "768"},
                                                                            {"vocab_size", -1},
                                                                            {"n_positions", 10.5},
                                                                            {"scale_attn_weights", false},
                                                                            {"scale_attn_by_inverse_layer_idx", true},
                                                                            {"add_cross_attention", true},
                                                                            {"quantization_config", {{"bits", 4}}},
                                                                            {"pruned_heads", {{"1", {0}}}}}) {
    json config = published();
    config[key] = value;
    // Widths that heads do not divide are the width's fault.
    EXPECT_THAT(error_of(config), HasSubstr("config.json: " + (key == "n_head" ? "n_embd" : key) + " is")) << value;
  }
  for (const char* key : {"n_layer", "n_head", "n_embd", "vocab_size", "model_type"}) {
    json config = published();
    config.erase(key);
    EXPECT_THAT(error_of(config), HasSubstr(std::string(key) + " is nothing, expected")) << key;
  }
  EXPECT_THAT(error_of(json::array()), HasSubstr("expected an object"));
}

TEST(HfConfig, WhatIsAsHereMayBeSaid) {
  json config = published();
  config["n_inner"] = 3072;
  config["activation_function"] = "gelu_pytorch_tanh";
  config["scale_attn_weights"] = true;
  config["reorder_and_upcast_attn"] = false;
  config["quantization_config"] = nullptr;
  config["pruned_heads"] = json::object();
  EXPECT_EQ(error_of(config), "");
}

TEST(HfConfig, WhatIsWrittenReadsBack) {
  Gpt2Config model;
  model.n_layer = 3;
  model.n_embd = 48;
  model.n_head = 6;
  model.n_positions = 17;
  model.vocab_size = 300;
  model.tie_lm_head = false;
  const HfConfig read = parse_hf_config(hf_config_json(model, FloatFormat::kBFloat16), "config.json");
  EXPECT_EQ(read.model.n_layer, 3);
  EXPECT_EQ(read.model.n_embd, 48);
  EXPECT_EQ(read.model.n_head, 6);
  EXPECT_EQ(read.model.n_positions, 17);
  EXPECT_EQ(read.model.vocab_size, 300);
  EXPECT_EQ(read.tied, false);
  EXPECT_THAT(read.notes, IsEmpty());
}

TEST(HfConfig, AnAdaptersScalingIsAlphaOverRankOnEveryQuantizedLayer) {
  const auto same = [](const AdapterShape& shape) {
    return std::vector<ExportedAdapter>{{"h.0.attn.c_attn", shape}, {"lm_head", shape}};
  };
  Gpt2Config model;
  model.quantize_lm_head = true;
  const json adapter = json::parse(adapter_config_json(model, same({.rank = 6, .alpha = 24.0}), "base folder"));
  EXPECT_EQ(adapter["peft_type"], "LORA");
  EXPECT_EQ(adapter["r"], 6);
  EXPECT_EQ(adapter["lora_alpha"], 24);
  EXPECT_TRUE(adapter["lora_alpha"].is_number_integer());
  EXPECT_EQ(adapter["fan_in_fan_out"], true);
  EXPECT_EQ(adapter["use_rslora"], false);
  EXPECT_EQ(adapter["base_model_name_or_path"], "base folder");
  EXPECT_EQ(adapter["target_modules"], json({"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj", "lm_head"}));
  EXPECT_EQ(json::parse(adapter_config_json(model, same({.rank = 8, .alpha = 2.5}), ""))["lora_alpha"], 2.5);
  EXPECT_EQ(adapter["rank_pattern"], json::object());
  const std::vector<ExportedAdapter> several = {{"h.0.attn.c_attn", {.rank = 6, .alpha = 24.0}},
                                                {"h.0.mlp.c_proj", {.rank = 12, .alpha = 36.0}},
                                                {"lm_head", {.rank = 6, .alpha = 1.5}}};
  const json unequal = json::parse(adapter_config_json(model, several, ""));
  EXPECT_EQ(unequal["r"], 6);
  EXPECT_EQ(unequal["rank_pattern"], json({{"h.0.mlp.c_proj", 12}}));
  EXPECT_EQ(unequal["alpha_pattern"], json({{"h.0.mlp.c_proj", 36}, {"lm_head", 1.5}}));
}

}  // namespace
}  // namespace qat

#include "src/config/effective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "src/config/field_table.h"
#include "tests/src/config/config_test_tools.h"
#include "tests/support/comma_locale.h"

namespace qat {
namespace {

using ::testing::HasSubstr;
using testing::load_sets;
using testing::load_text;
using testing::Sets;

// A valid configuration in which no key but the version has its default.
constexpr const char* kAllChanged = R"({
  "run": {"dir": "r", "seed": 7, "resume": "never"},
  "model": {"preset": "gpt2-medium", "n_layer": 3, "n_head": 5, "n_embd": 50, "n_positions": 600, "vocab_size": 300,
            "init": "checkpoint", "init_from": "x", "freeze_base": true, "tie_lm_head": false, "quantize_lm_head": true,
            "norm_slots": "per_width",
            "embd_dropout": 0.1, "attn_dropout": 0.2, "resid_dropout": 0.3, "head_dropout": 0.4},
  "lora": {"rank": 3, "alpha": 0.1, "quantize": false, "slots": "per_width", "input": "raw", "rank_rule": "by_width",
           "per_width": [{"bits": 3, "rank": 5, "quantize": true, "input": "quantized"}, {"bits": 8, "alpha": 0.5}]},
  "quant": {"widths": [8, 3, 17], "activation_bits": 9, "kv_bits": 4,
            "weight": {"method": "log", "log_codebook": "seed", "granularity": "tensor",
                       "by_width": [{"bits": 3, "method": "minmax"}]},
            "activation": {"by_width": [{"bits": 9, "method": "log"}], "symmetric": false, "granularity": "feature", "range": "calibrated"},
            "stochastic_gradients": false, "log_grad_clip": 3.5, "calibration_batches": 2, "recalibrate_every": 9,
            "overrides": [{"layers": "lm_head", "weight_bits": 8, "activation_bits": 8, "gradient_bits": 4}]},
  "precision": {"kind": "list", "unit": "epoch", "cycles": 3, "list": [3, 8, 17], "cycle_drop": 0.5, "grad_kind": "scheduled",
                "static_after": 2, "static_at": "8", "layer_offset": 4,
                "grad_min_bits": 4, "grad_max_bits": 6},
  "lr": {"peak": 0.1, "warmup_steps": 4, "decay": "piecewise", "scale_preset": "001-down",
         "milestones": [{"step": 6, "factor": 0.5}],
         "scale_per_width": [{"bits": 32, "factor": 0.25}]},
  "range_test": {"form": "plateau", "steps": 9, "threshold": 0.5, "plateau": 0.25, "target_bits": 8, "lr_factor": 2},
  "data": {"train": ["a", "b"], "val": ["c"], "sequence_length": 64, "allow_change": true,
           "tokenizer": "gpt2", "merges": "m", "window_advance": 12, "question_tokens": 9},
  "optim": {"range_lr_factor": 0.5, "beta1": 0.8, "beta2": 0.999, "eps": 1e-6, "weight_decay": 0, "clip_norm": 0.5, "clip_scope": "width",
            "noise": 0.5, "noise_scale": "absolute", "noise_max_bits": 3},
  "train": {"steps": 11, "batch_size": 12, "micro_batch_size": 3, "max_skips": 2, "log_every": 5,
            "spike_deviations": 4.5, "spike_window": 20, "replica_check_every": 6, "accumulate": "running", "on_out_of_memory": "smaller_micro_batch",
            "students": 3, "student_draw": "sandwich"},
  "distill": {"teacher": "full", "weight": 0.3, "cross_entropy": 0.7, "temperature": 4, "features": 1e-7,
              "feature_layers": [3, 0], "feature_pick": "all", "start_step": 300, "teacher_cross_entropy": 0.5},
  "eval": {"every": 3, "at_start": true, "bits": [32, 3], "maps": ["8-9-4"], "max_tokens": 100, "stride": 32, "batch_size": 2,
           "patience": 2, "min_delta": 0.25,
           "n_best": 5, "max_answer_tokens": 6, "null_threshold": -1.5, "predictions": true},
  "checkpoint": {"every": 5, "keep": 1, "keep_best": true, "on_error": "continue"},
  "parallel": {"data": 2, "threads_per_rank": 3},
  "compute": {"device": "cuda", "dtype": "tf32", "attention": "repeatable", "recompute": "block"},
  "comm": {"wire": "int8", "sum": "two_phase", "block": 512, "error_feedback": false, "stochastic_rounding": true,
           "overlap": false, "weights": "fp32", "ranks_per_node": 2, "self_check": 0.25},
  "watchdog": {"limit_seconds": 45.5, "straggler_window": 7},
  "report": {"tensorboard": false, "layers_every": 2, "histograms_every": 3}
})";

TEST(ConfigToJson, LoadsBackToTheSameConfigurationAndHash) {
  const RunConfig config = load_text(kAllChanged).config;
  const std::string text = to_json(config_to_json(config), 2);
  const RunConfig again = load_text(text).config;
  EXPECT_EQ(to_json(config_to_json(again), 2), text);
  EXPECT_EQ(config_hash(again), config_hash(config));
  EXPECT_EQ(again.quant.overrides.at(0).gradient_bits, 4);
  EXPECT_EQ(again.model.n_embd, 50);
  EXPECT_EQ(again.lora.alpha, 0.1);
  ASSERT_EQ(again.lora.per_width.size(), 2U);
  const WidthAdapter& narrow = again.lora.per_width[0];
  const WidthAdapter& wide = again.lora.per_width[1];
  EXPECT_TRUE(narrow.rank == 5 && narrow.quantize == true && narrow.input == AdapterInput::kQuantized && !narrow.alpha);
  EXPECT_TRUE(wide.alpha == 0.5 && !wide.rank && !wide.quantize && !wide.input);
  EXPECT_EQ(again.quant.weight.method_at(3), QuantizerKind::kMinMax);
  EXPECT_EQ(again.quant.weight.method_at(8), QuantizerKind::kLog);
  EXPECT_EQ(again.quant.activation.method_at(9), QuantizerKind::kLog);
}

TEST(ConfigToJson, EveryKeyOfTheTableIsReadIntoItsOwnMember) {
  const RunConfig changed = load_text(kAllChanged).config;
  const RunConfig defaults;
  // These keep their default because another value would be refused or unused beside the rest.
  const std::set<std::string> kept = {"quant.weight.symmetric",
                                      "quant.weight.group_size",
                                      "quant.activation.method",
                                      "quant.activation.log_codebook",
                                      "quant.calibration_method",
                                      "quant.calibration_percentile",
                                      "quant.running_momentum",
                                      "precision.phase",
                                      "precision.reflection",
                                      "lr.min_ratio",
                                      "precision.min_bits",
                                      "precision.max_bits",
                                      "precision.warmup_steps",
                                      "parallel.pipeline",
                                      "parallel.schedule",
                                      "parallel.chunks",
                                      "parallel.cut",
                                      "parallel.transfer",
                                      "parallel.timeline_step",
                                      "train.recipe",
                                      "model.task",
                                      "quant.maps",
                                      "precision.switch_interval",
                                      "precision.switch_probability",
                                      "precision.pattern"};
  for (const auto& field : run_fields()) {
    const bool same = config_value(changed, field.path) == config_value(defaults, field.path);
    EXPECT_EQ(same, kept.contains(field.path)) << field.path;
  }
  const Value json = config_to_json(changed);
  EXPECT_EQ(json.at("quant").at("weight").at("log_codebook").as_string(), "seed");
  EXPECT_EQ(json.at("eval").at("batch_size").as_int(), 2);
  EXPECT_EQ(json.at("train").at("batch_size").as_int(), 12);
  EXPECT_EQ(json.at("lr").at("warmup_steps").as_int(), 4);
  EXPECT_EQ(json.at("precision").at("warmup_steps").as_int(), 0);
}

TEST(ConfigHash, DependsOnWhatIsComputedAndNotOnFoldersOrThePresetsName) {
  const std::uint64_t base = config_hash(RunConfig{});
  EXPECT_EQ(config_hash(load_sets({"run.dir=elsewhere", "run.resume=never"}).config), base);
  EXPECT_EQ(config_hash(load_sets({"watchdog.limit_seconds=60", "watchdog.straggler_window=0"}).config), base);
  EXPECT_EQ(config_hash(load_sets({"model.preset=gpt2"}).config), base);  // the defaults are GPT-2 124M
  std::set<std::uint64_t> hashes = {base};
  for (const char* set : {"run.seed=2", "train.steps=1008", "lora.rank=8", "quant.weight.granularity=tensor",
                          "eval.stride=64", "quant.overrides=[{\"layers\":\"*\",\"weight_bits\":8}]"}) {
    EXPECT_TRUE(hashes.insert(config_hash(load_sets({set}).config)).second) << set;
  }
}

TEST(ConfigHash, DoesNotDependOnTheLocale) {
  const Sets sets = {"lr.peak=0.00125", "train.steps=12000"};
  const std::uint64_t plain = config_hash(load_sets(sets).config);
  const testing::CommaLocale comma;
  const LoadResult r = load_sets(sets);
  EXPECT_EQ(r.config.lr.peak, 0.00125);
  EXPECT_EQ(config_hash(r.config), plain);
  EXPECT_EQ(
      to_json(config_to_json(r.config).at("lr")),
      R"({"peak":0.00125,"min_ratio":0.1,"warmup_steps":0,"decay":"cosine","milestones":[],"scale_preset":"none","scale_per_width":[]})");
  EXPECT_THAT(print_config(r.config, r.origins), HasSubstr(" = 12000 "));
}

TEST(PrintConfig, ShowsEveryValueWithItsOrigin) {
  const LoadResult r = load_text("{\n\"model\": {\"preset\": \"micro\",\n\"n_layer\": 5}}", {"lr.peak=0.001"});
  const std::string text = print_config(r.config, r.origins);
  const auto line_of = [&](const std::string& path) {
    const std::size_t start = text.find(path + " ");
    return text.substr(start, text.find('\n', start) - start);
  };
  EXPECT_THAT(line_of("model.preset"), ::testing::ContainsRegex("= \"micro\" +run.json:2$"));
  EXPECT_THAT(line_of("model.n_layer"), ::testing::ContainsRegex("= 5 +run.json:3$"));
  EXPECT_THAT(line_of("model.n_embd"), ::testing::ContainsRegex("= 128 +preset micro$"));
  EXPECT_THAT(line_of("lr.peak"), ::testing::ContainsRegex("= 0.001 +--set$"));
  EXPECT_THAT(line_of("quant.widths"), ::testing::ContainsRegex("= \\[2,3,4,5,6,7,8,32\\] +default$"));
  EXPECT_EQ(static_cast<std::size_t>(std::count(text.begin(), text.end(), '\n')), run_fields().size());
}

}  // namespace
}  // namespace qat

#include "src/config/validate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/src/config/config_test_tools.h"

namespace qat {
namespace {

using ::testing::ElementsAre;
using testing::error_of;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::load_sets;
using testing::Sets;

struct Refused {
  Sets sets;
  const char* message;
};

class CrossRule : public ::testing::TestWithParam<Refused> {};

TEST_P(CrossRule, RefusesValuesThatDoNotFitEachOther) {
  EXPECT_THAT(error_of("{}", GetParam().sets), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, CrossRule,
    ::testing::Values(
        Refused{{"model.n_embd=770"}, "model.n_embd = 770: must be a multiple of model.n_head; nearest: 768 or 780"},
        Refused{{"model.n_head=1000"},
                "model.n_embd = 768 (default): must be a multiple of model.n_head; nearest: 1000"},
        Refused{{"run.dir=~/runs"}, "run.dir = \"~/runs\": must not begin with ~"},
        Refused{{"data.merges=~/merges.txt"}, "data.merges = \"~/merges.txt\": must not begin with ~"},
        Refused{{"model.init=checkpoint"}, "model.init_from = \"\" (default): must name a checkpoint"},
        Refused{{"model.init_from=x"},
                "--set: model.init_from = \"x\": would have no effect: add model.init=checkpoint to begin from it, or "
                "model.init=random"},
        Refused{{"data.sequence_length=2048"}, "data.sequence_length = 2048: must not exceed model.n_positions"},
        Refused{{"model.n_positions=64"},
                "--set: data.sequence_length = 128 (default): must not exceed model.n_positions"},
        Refused{{"model.vocab_size=256"}, "model.vocab_size = 256: must be at least 257 for the built-in text"},
        Refused{{"data.val=[\"builtin\",\"a\"]"}, "data.val = [\"builtin\",\"a\"]: \"builtin\" must stand alone"},
        Refused{{"precision.min_bits=9", "precision.max_bits=10"},
                "precision.min_bits = 9: must be one of quant.widths"},
        Refused{{"precision.max_bits=10"}, "precision.max_bits = 10: must be one of quant.widths"},
        Refused{{"quant.widths=[2,4]"}, "--set: precision.min_bits = 3 (default): must be one of quant.widths"},
        Refused{{"precision.min_bits=7", "precision.max_bits=6"},
                "precision.min_bits = 7: must not exceed precision.max_bits"},
        Refused{{"precision.kind=constant", "precision.max_bits=12"},
                "precision.max_bits = 12: must be one of quant.widths"},
        Refused{{"precision.kind=list"}, "precision.list = [] (default): must not be empty"},
        Refused{{"precision.kind=list", "precision.list=[8,12]"},
                "precision.list[1] = 12: must be one of quant.widths"},
        Refused{{"precision.cycles=501"},
                "precision.cycles = 501: each cycle must have at least 2 steps; at most 500 cycles in 1000 steps"},
        Refused{{"precision.kind=list", "precision.list=[4,5,6]", "precision.cycles=400"},
                "at least 3 steps; at most 333 cycles"},
        Refused{{"train.steps=1", "precision.cycles=1"}, "1 step is too few for one"},
        Refused{{"precision.phase=fall", "precision.warmup_steps=990"}, "at most 5 cycles in 10 steps"},
        Refused{{"precision.phase=fall", "precision.warmup_steps=1000"},
                "precision.warmup_steps = 1000: must leave steps"},
        Refused{{"precision.grad_kind=scheduled", "precision.grad_max_bits=6"},
                "precision.grad_min_bits = 8 (default): must not exceed"},
        Refused{{"precision.grad_kind=scheduled", "precision.grad_max_bits=32"}, "no widths between 8 and 32"},
        Refused{{"precision.grad_min_bits=9"}, "precision.grad_min_bits = 9: must be 2..8 or 32"},
        Refused{{"train.recipe=spnet", "precision.grad_kind=scheduled"},
                "precision.grad_kind = \"scheduled\": must be \"constant\" for train.recipe \"spnet\""},
        Refused{{"train.recipe=sdq"}, "train.recipe = \"sdq\": must be one of cpt, spnet, per_map, sp, instantnet"},
        Refused{{"train.recipe=sp", "quant.widths=[4,8,32]", "train.students=3"},
                "train.students = 3: must not exceed the 2 widths below 32 in quant.widths"},
        Refused{{"train.recipe=sp", "quant.widths=[4,8,32]", "train.students=1", "train.student_draw=sandwich"},
                "train.students = 1: must be at least 2 with train.student_draw \"sandwich\""},
        Refused{{"distill.teacher=wider"},
                "distill.teacher = \"wider\": must not be \"wider\" with train.recipe \"cpt\""},
        Refused{{"comm.block=100"}, "comm.block = 100: must be a power of two; nearest: 64 or 128"},
        Refused{{"comm.wire=int16"}, "comm.wire"},
        Refused{{"distill.feature_layers=[13]", "distill.teacher=full", "distill.features=1"},
                "distill.feature_layers[0] = 13: must be at most model.n_layer = 12"},
        Refused{{"train.recipe=sp", "distill.weight=0", "distill.cross_entropy=0"},
                "distill.weight = 0.0: must not be 0 beside distill.cross_entropy and distill.features of 0"},
        Refused{{"model.task=span_qa"},
                "data.window_advance = 128: must not exceed 62, which beside a question is left"},
        Refused{{"model.task=span_qa", "data.question_tokens=126"},
                "data.question_tokens = 126: must leave room for a context in data.sequence_length: at most 125"},
        Refused{{"model.task=span_qa", "data.window_advance=62", "model.quantize_lm_head=true"},
                "model.quantize_lm_head = true: must be false"},
        Refused{{"model.task=span_qa", "data.window_advance=62", "data.tokenizer=gpt2", "data.train=[\"a\"]",
                 "data.val=[\"b\"]"},
                "data.merges = \"\" (default): must name merges.txt"},
        Refused{{"model.task=span_qa", "data.window_advance=62", "data.merges=m"},
                "data.merges = \"m\": must be empty"},
        Refused{{"model.task=span_qa", "data.window_advance=62", "data.merges=m", "data.tokenizer=gpt2"},
                "data.tokenizer = \"gpt2\": must be \"byte\" for the built-in questions"},
        Refused{{"lr.warmup_steps=1001"}, "lr.warmup_steps = 1001: must not exceed train.steps"},
        Refused{{"lr.min_ratio=1.5"}, "lr.min_ratio = 1.5: must be a number from 0 to 1"},
        Refused{{"optim.beta2=1"}, "optim.beta2 = 1: must be a number of at least 0 and below 1"},
        Refused{{"lora.rank=-1"}, "lora.rank = -1: must be an integer from 0"},
        Refused{{"optim.eps=1e-300"}, "optim.eps = 1e-300: must be a number from 1e-20 to 1000000"},
        Refused{{"optim.eps=1e-30"}, "optim.eps = 1e-30: must be a number from 1e-20"},
        Refused{{"optim.weight_decay=1e39"}, "optim.weight_decay = 1e+39: must be a number from 0 to 1000000"},
        Refused{{"optim.clip_norm=1e-40"},
                "optim.clip_norm = 1e-40: must be 0 (no clipping) or at least 1e-20: fp32 loses"},
        Refused{{"lr.peak=1e-40"}, "lr.peak = 1e-40: must be a number from 1.2e-38 to 3.4e+38"},
        Refused{{"lr.peak=1e39"}, "lr.peak = 1e+39: must be a number from 1.2e-38 to 3.4e+38"},
        Refused{{"lora.alpha=0"}, "lora.alpha = 0: must be a number from 1e-06 to 1000000"},
        Refused{{"lora.alpha=1e30"}, "lora.alpha = 1e+30: must be a number from 1e-06 to 1000000"},
        Refused{{"quant.log_grad_clip=1e300"}, "quant.log_grad_clip = 1e+300: must be a number from 1.2e-38"},
        Refused{{"model.resid_dropout=0.99999999"},
                "model.resid_dropout = 0.99999999: must be a number from 0 to 0.999"},
        Refused{{"train.batch_size=2048", "train.micro_batch_size=2048"},
                "train.micro_batch_size = 2048: times data.sequence_length must not exceed 131072 tokens"},
        Refused{{"compute.device=cpu", "compute.dtype=bf16"},
                "compute.dtype = \"bf16\": must be \"auto\" or \"fp32\" on CPUs"},
        Refused{{"compute.recompute=full"}, "compute.recompute = \"full\": must be one of none, block, selective"},
        Refused{{"quant.kv_bits=19"}, "quant.kv_bits = 19: must be 2..18 or 32"},
        Refused{{"compute.device=gpu"}, "compute.device = \"gpu\": must be one of"},
        Refused{{"train.micro_batch_size=5"},
                "train.micro_batch_size = 5: must divide train.batch_size; nearest: 4 or 8 (train.batch_size = 32, "
                "default)"},
        Refused{{"train.micro_batch_size=64"},
                "train.micro_batch_size = 64: must divide train.batch_size; nearest: 32 ("},
        Refused{{"parallel.pipeline=2", "parallel.threads_per_rank=2"},
                "parallel.threads_per_rank = 2: must be 0 or 1 with several stages"},
        Refused{{"parallel.transfer=bf16"}, "parallel.transfer = \"bf16\": must be one of values, codes"},
        Refused{{"parallel.pipeline=2", "comm.ranks_per_node=3"},
                "comm.ranks_per_node = 3: must be a multiple of parallel.pipeline"},
        Refused{{"parallel.pipeline=2", "parallel.chunks=2"},
                "parallel.chunks = 2: must be 1 for parallel.schedule \"1f1b\""},
        Refused{{"parallel.pipeline=4", "parallel.schedule=interleaved"},
                "parallel.chunks = 1 (default): must be 2 to 3 for parallel.schedule \"interleaved\""},
        Refused{{"parallel.pipeline=4", "parallel.schedule=interleaved", "parallel.chunks=4"},
                "parallel.chunks = 4: must be at most 3: each chunk of each stage has at least one block"},
        Refused{{"parallel.pipeline=7", "parallel.schedule=interleaved", "parallel.chunks=2"},
                "parallel.schedule = \"interleaved\": must not be \"interleaved\", which needs two blocks a stage: "
                "take \"1f1b\", or a parallel.pipeline of at most 6"},
        Refused{{"parallel.schedule=zb"}, "parallel.schedule = \"zb\": must be one of gpipe, 1f1b, interleaved"},
        Refused{{"parallel.pipeline=3", "parallel.cut=[0,6]"},
                "parallel.cut = [0,6]: must name the first block of each of the 3 pieces, or nothing for a cut by "
                "cost; for example [0, 4, 8]"},
        Refused{{"parallel.pipeline=3", "parallel.cut=[0,6,6]"},
                "parallel.cut = [0,6,6]: must begin with 0, rise and end below model.n_layer, so that every piece has "
                "a block; nearest: [0, 6, 7]"},
        Refused{{"parallel.pipeline=3", "parallel.cut=[1,6,12]"}, "nearest: [0, 6, 11] (model.n_layer = 12, default)"},
        Refused{{"parallel.pipeline=3", "parallel.cut=[0,11,12]"}, "nearest: [0, 10, 11]"},
        Refused{{"parallel.pipeline=2", "parallel.cut=[0,2000]"},
                "parallel.cut[1] = 2000: must be an integer from 0 to 1023"},
        Refused{{"parallel.pipeline=13"}, "parallel.pipeline = 13: must not exceed model.n_layer"},
        Refused{{"eval.bits=[9]"}, "eval.bits[0] = 9: must be one of quant.widths, or 32"},
        Refused{{"eval.max_tokens=1"}, "eval.max_tokens = 1: must be at least 2, or 0 for all"},
        Refused{{"eval.stride=129"}, "eval.stride = 129: must not exceed data.sequence_length"},
        Refused{{"quant.calibration_batches=0"}, "quant.calibration_batches = 0: must be an integer from 1 to 1000000"},
        Refused{{"quant.weight.method=log", "quant.weight.symmetric=false"},
                "quant.weight.symmetric = false: must be true: the log quantizer"},
        Refused{
            {"quant.activation.granularity=feature"},
            "quant.activation.granularity = \"feature\": \"feature\" needs quant.activation.range = \"calibrated\""},
        Refused{{"quant.activation.range=calibrated"},
                "--set: quant.activation.granularity = \"token\" (default): \"token\" needs quant.activation.range"},
        Refused{{"quant.overrides=[{\"layers\":\"lm_head\",\"weight_bits\":8}]"},
                "--set: quant.overrides[0].layers = \"lm_head\": must match a quantized layer"},
        Refused{{"quant.overrides=[{\"layers\":\"*\",\"weight_bits\":8},{\"layers\":\"h.12.*\",\"weight_bits\":8}]"},
                "quant.overrides[1].layers = \"h.12.*\": must match"},
        Refused{{"quant.overrides=[{\"layers\":\"*\"}]"}, "must change weight_bits, activation_bits or gradient_bits"},
        Refused{{"quant.overrides=[{\"weight_bits\":8}]"}, "must name its \"layers\""},
        Refused{{"quant.overrides=[3]"}, "quant.overrides[0] = 3: must be an object"},
        Refused{{"quant.overrides=[{\"layers\":\"*\",\"weight_bits\":1}]"},
                "quant.overrides[0].weight_bits = 1: must be 0, 2..18 or 32"},
        Refused{{"lora.per_width=[{\"bits\":2,\"rank\":8}]"},
                "needs lora.slots = \"per_width\": all widths share one adapter (lora.slots = \"shared\", default)"},
        Refused{{"lora.rank_rule=by_width"}, "lora.rank_rule = \"by_width\": \"by_width\" needs lora.slots"},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"bits\":9,\"rank\":8}]"},
                "--set: lora.per_width[0].bits = 9: must be a width of quantized weights, of quant.widths or "
                "quant.overrides: 2, 3, 4, 5, 6, 7, 8 (quant.widths"},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"bits\":32,\"rank\":8}]"},
                "lora.per_width[0].bits = 32: must be 1..18"},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"bits\":4,\"rank\":8},{\"bits\":4,\"rank\":1}]"},
                "lora.per_width[1].bits = 4: must not be there twice"},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"bits\":4}]"},
                "lora.per_width[0] = {\"bits\":4}: must change rank, alpha, quantize or input"},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"rank\":4}]"}, "must name its \"bits\""},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"bits\":4,\"rank\":\"8\"}]"},
                "lora.per_width[0].rank = \"8\": must be an integer from 0 to 65536, or null, without quotes"},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"bits\":4,\"input\":\"row\"}]"},
                "must be one of quantized, raw, or empty; did you mean \"raw\"?"},
        Refused{{"lora.slots=per_width", "lora.per_width=[{\"bits\":4,\"ranks\":8}]"},
                "lora.per_width[0].ranks: unknown key; did you mean \"rank\"?"},
        Refused{{"lora.per_width=8"}, "lora.per_width = 8: must be a list of objects"},
        Refused{{"quant.weight.by_width=[{\"bits\":9,\"method\":\"log\"}]"},
                "quant.weight.by_width[0].bits = 9: must be a width of quantized weights"},
        Refused{{"quant.activation_bits=8", "quant.activation.by_width=[{\"bits\":4,\"method\":\"log\"}]"},
                "quant.activation.by_width[0].bits = 4: must be a width of quantized inputs, of quant.activation_bits, "
                "quant.widths or quant.overrides: 8 ("},
        Refused{{"quant.weight.by_width=[{\"bits\":4}]"}, "must name its \"method\""},
        Refused{{"lr.scale_per_width=[{\"bits\":9,\"factor\":2}]"},
                "lr.scale_per_width[0].bits = 9: must be a width of quant.widths or quant.overrides: 2, 3, 4, 5, 6, 7, "
                "8, 32"},
        Refused{{"lr.scale_per_width=[{\"bits\":4,\"factor\":-1}]"},
                "lr.scale_per_width[0].factor = -1: must be a number from 0 to 1000"},
        Refused{{"lr.peak=1e38", "lr.scale_per_width=[{\"bits\":4,\"factor\":10}]"},
                "lr.scale_per_width[0].factor = 10: times lr.peak must not exceed what fp32 holds"},
        Refused{{"optim.noise=-1"}, "optim.noise = -1: must be a number from 0"},
        Refused{{"quant.widths=[1,3,4,8,32]"}, "quant.widths[0] = 1: 1 bit needs quant.weight.method = \"llm_qat\""},
        Refused{{"quant.widths=[1,3,4,8,32]", "quant.weight.method=llm_qat"},
                "quant.widths[0] = 1: 1 bit is for weights alone: activations need quant.activation_bits"},
        Refused{{"quant.activation.method=llm_qat"},
                "quant.widths[0] = 2 (default): activations need at least 3 bits for quant.activation.method = "
                "\"llm_qat\""},
        Refused{{"quant.activation.method=llm_qat", "quant.activation_bits=2"},
                "quant.activation_bits = 2: activations need at least 3 bits"},
        Refused{{"quant.weight.method=llm_qat", "quant.weight.symmetric=false"},
                "quant.weight.symmetric = false: must be true: the llm_qat quantizer of weights has no affine form"},
        Refused{{"quant.weight.method=cpt", "quant.weight.symmetric=false"}, "the cpt quantizer has no affine form"},
        Refused{{"quant.weight.method=lsq"},
                "quant.weight.granularity = \"channel\" (default): must be \"tensor\" for method \"lsq\""},
        Refused{{"quant.activation.method=lsq"},
                "quant.activation.range = \"dynamic\" (default): must be \"learned\" for method \"lsq\""},
        Refused{{"quant.activation.method=lsq", "quant.activation.range=learned"},
                "quant.activation.granularity = \"token\" (default): must be \"tensor\" for method \"lsq\""},
        Refused{{"quant.activation.range=learned", "quant.activation.granularity=tensor"},
                "\"learned\" needs quant.activation.method = \"lsq\": \"minmax\" trains nothing"},
        Refused{{"quant.activation.method=ema", "quant.activation.granularity=tensor"},
                "must be \"running\" for method \"ema\""},
        Refused{
            {"quant.activation.method=log", "quant.activation.range=running", "quant.activation.granularity=tensor"},
            "\"log\" has no running form"},
        Refused{{"quant.activation.range=running"}, "\"token\" needs quant.activation.range = \"dynamic\""},
        Refused{{"quant.activation.method=groupwise"},
                "quant.activation.method = \"groupwise\": must be one of minmax"},
        Refused{{"quant.weight.method=groupwise", "quant.weight.group_size=100"},
                "quant.weight.group_size = 100: must divide the inputs of every layer"},
        Refused{{"quant.weight.method=groupwise", "quant.weight.granularity=tensor"},
                "must be \"channel\" for method \"groupwise\""},
        Refused{{"quant.weight.method=groupwise", "quant.widths=[3,8,16,32]"},
                "quant.widths[2] = 16: must be at most 15, or 32"},
        Refused{{"quant.calibration_method=percentile", "quant.activation.range=calibrated",
                 "quant.activation.granularity=feature"},
                "quant.calibration_method = \"percentile\": must be \"minmax\" with a range a feature"},
        Refused{{"quant.calibration_method=entropy", "quant.activation.range=calibrated",
                 "quant.activation.granularity=tensor", "quant.activation.symmetric=false"},
                "\"entropy\" needs symmetric codes"},
        Refused{{"quant.calibration_method=entropy", "quant.activation.range=calibrated",
                 "quant.activation.granularity=tensor", "quant.activation.method=log"},
                "must be \"minmax\" for method \"log\""},
        Refused{{"quant.calibration_percentile=0.5"},
                "quant.calibration_percentile = 0.5: must be a number from 1 to 100"},
        Refused{{"quant.widths=[1,3,4,8,32]", "quant.activation_bits=8",
                 "quant.weight.by_width=[{\"bits\":3,\"method\":\"llm_qat\"}]"},
                "quant.widths[0] = 1: 1 bit needs quant.weight.method = \"llm_qat\""},
        Refused{
            {"quant.weight.by_width=[{\"bits\":4,\"method\":\"lsq\"}]"},
            "quant.weight.granularity = \"channel\" (default): must be \"tensor\" for method \"lsq\": it learns one "
            "step a layer and width (quant.weight.by_width"},
        Refused{{"quant.activation.by_width=[{\"bits\":4,\"method\":\"groupwise\"}]"},
                "quant.activation.by_width[0].method = \"groupwise\": must not be \"groupwise\", which is for weights"},
        Refused{{"quant.activation.by_width=[{\"bits\":4,\"method\":\"ema\"}]"},
                "quant.activation.range = \"dynamic\" (default): must be \"running\" for method \"ema\""},
        Refused{{"quant.maps=[\"16\"]", "quant.weight.method=groupwise"},
                "quant.maps[0] = 16: must be at most 15, or 32"},
        Refused{{"quant.maps=[\"4-2-8\"]", "quant.widths=[4,8]",
                 "quant.activation.by_width=[{\"bits\":4,\"method\":\"llm_qat\"}]", "quant.activation.method=llm_qat"},
                "quant.maps[0] = 2: activations need at least 3 bits"},
        Refused{{"quant.running_momentum=1"}, "quant.running_momentum = 1: must be a number"}));

TEST(CrossRules, AcceptWhatTheyShould) {
  for (const Sets& sets : std::vector<Sets>{
           {"model.quantize_lm_head=true", "quant.overrides=[{\"layers\":\"lm_head\",\"weight_bits\":8}]"},
           {"precision.kind=constant", "quant.widths=[8]"},
           {"precision.kind=list", "precision.list=[32,4,4]", "quant.widths=[4,32]"},
           {"precision.unit=epoch", "precision.cycles=900"},
           {"precision.cycles=500"},
           {"optim.beta1=0.99999999", "optim.beta2=0.99999999"},
           {"optim.clip_norm=0", "optim.weight_decay=0", "optim.eps=1e-15"},
           {"lr.peak=1e-30"},
           {"eval.bits=[32]", "quant.widths=[3,8]"},
           {"quant.activation.granularity=feature", "quant.activation.range=calibrated"},
           {"precision.grad_kind=scheduled", "precision.grad_min_bits=4"},
           {"train.recipe=per_map", "quant.widths=[2,4,8]"},  // no schedule, and no bounds to be among them
           {"lora.slots=per_width", "lora.rank_rule=by_width", "lora.per_width=[{\"bits\":4,\"quantize\":false}]"},
           {"quant.widths=[4]", "quant.overrides=[{\"layers\":\"h.0.*\",\"weight_bits\":9}]", "precision.kind=constant",
            "precision.max_bits=4", "quant.weight.by_width=[{\"bits\":9,\"method\":\"log\"}]"},
           {"lr.scale_per_width=[{\"bits\":32,\"factor\":0}]"},
           {"precision.grad_min_bits=32"}}) {
    EXPECT_EQ(error_of("{}", sets), "") << sets[0];
  }
}

TEST(CrossRules, ARecipeWithoutAScheduleIsReadBack) {
  const RunConfig config = load_sets({"train.recipe=per_map", "quant.widths=[2,4]"}).config;
  EXPECT_EQ(config.train.recipe, Recipe::kPerMap);
}

TEST(CrossRules, WarnOfValuesWithoutEffectAndOfDoubtfulOnes) {
  const auto warning = [](const Sets& sets) {
    const auto warnings = load_sets(sets).warnings;
    return warnings.empty() ? "" : warnings[0];
  };
  EXPECT_EQ(warning({"model.freeze_base=true"}),
            "--set: model.freeze_base = true: freezes random weights: only adapters and layer norms will learn "
            "(model.init = \"random\", default)");
  EXPECT_THAT(warning({"precision.kind=constant", "precision.cycles=3"}),
              HasSubstr("precision.cycles = 3: has no effect"));
  EXPECT_THAT(
      warning({"train.recipe=spnet", "precision.kind=constant"}),
      HasSubstr(
          "precision.kind = \"constant\": has no effect: the recipe takes its widths from quant.maps or quant.widths"));
  EXPECT_THAT(warning({"train.recipe=spnet", "train.steps=999"}), IsEmpty());
  EXPECT_THAT(warning({"eval.n_best=3"}), HasSubstr("eval.n_best"));
  EXPECT_THAT(warning({"model.task=span_qa", "data.window_advance=62", "eval.stride=5"}),
              HasSubstr("eval.stride = 5: has no effect"));
  EXPECT_THAT(warning({"precision.list=[4]"}), HasSubstr("precision.list = [4]: has no effect"));
  EXPECT_THAT(warning({"model.init=random", "model.init_from=x"}), HasSubstr("model.init_from = \"x\": has no effect"));
  EXPECT_THAT(warning({"quant.weight.log_codebook=seed"}),
              HasSubstr("quant.weight.log_codebook = \"seed\": has no effect"));
  EXPECT_THAT(warning({"quant.weight.log_codebook=seed", "quant.weight.by_width=[{\"bits\":8,\"method\":\"log\"}]"}),
              IsEmpty());
  EXPECT_THAT(warning({"lora.slots=per_width", "lora.rank_rule=by_width", "lora.rank=8"}),
              HasSubstr("lora.rank = 8: has no effect: ranks follow from the widths"));
  EXPECT_THAT(warning({"parallel.schedule=gpipe"}),
              HasSubstr("parallel.schedule = \"gpipe\": has no effect: there is one stage"));
  EXPECT_THAT(warning({"parallel.chunks=2"}), HasSubstr("parallel.chunks = 2: has no effect"));
  EXPECT_THAT(warning({"parallel.cut=[0,6]"}), HasSubstr("parallel.cut = [0,6]: has no effect"));
  EXPECT_THAT(warning({"parallel.transfer=codes"}), HasSubstr("parallel.transfer = \"codes\": has no effect"));
  EXPECT_THAT(warning({"parallel.pipeline=2", "parallel.schedule=interleaved", "parallel.chunks=3",
                       "parallel.transfer=codes", "comm.wire=int8", "train.on_out_of_memory=smaller_micro_batch"}),
              IsEmpty());
  EXPECT_THAT(warning({"optim.noise_scale=absolute"}), HasSubstr("has no effect: there is no noise"));
  EXPECT_THAT(warning({"compute.recompute=selective", "compute.device=cpu"}),
              HasSubstr("compute.recompute = \"selective\": has no effect"));
  EXPECT_THAT(warning({"compute.recompute=selective"}), IsEmpty());
  EXPECT_THAT(warning({"comm.block=512", "comm.sum=two_phase"}), IsEmpty());  // of auto: it may be int8
  EXPECT_THAT(warning({"comm.wire=fp32", "comm.block=512"}),
              HasSubstr("comm.block = 512: has no effect with comm.wire \"fp32\""));
  EXPECT_THAT(warning({"comm.wire=bf16", "comm.sum=two_phase"}),
              HasSubstr("comm.sum = \"two_phase\": has no effect with comm.wire \"bf16\""));
  EXPECT_THAT(warning({"comm.wire=int4", "comm.block=512", "comm.stochastic_rounding=true"}), IsEmpty());
  EXPECT_THAT(warning({"watchdog.limit_seconds=5"}), HasSubstr("watchdog.limit_seconds = 5"));
  EXPECT_THAT(warning({"watchdog.limit_seconds=0"}), IsEmpty());
  EXPECT_THAT(warning({"precision.cycles=7"}), HasSubstr("precision.cycles = 7: does not divide the steps"));
  EXPECT_THAT(warning({"precision.cycles=7", "precision.phase=full"}), IsEmpty());
  EXPECT_THAT(warning({"lr.warmup_steps=600"}), HasSubstr("more than half"));
  EXPECT_THAT(warning({"lr.peak=1e25"}), HasSubstr("lr.peak = 1e+25: moves every parameter"));
  EXPECT_THAT(warning({"lr.peak=0.5", "optim.weight_decay=2"}),
              HasSubstr("optim.weight_decay = 2.0: times lr.peak is 1"));
  EXPECT_THAT(warning({"lr.peak=0.5", "optim.weight_decay=1.9"}), IsEmpty());
  EXPECT_THAT(warning({"optim.clip_norm=1e-9"}), HasSubstr("optim.clip_norm = 1e-09: is not above optim.eps"));
  EXPECT_THAT(warning({"optim.clip_scope=width"}), HasSubstr("no width has parameters of its own"));
  EXPECT_THAT(warning({"optim.clip_scope=width", "model.norm_slots=per_width"}), IsEmpty());
  EXPECT_THAT(warning({"optim.clip_scope=global", "optim.clip_norm=0"}), HasSubstr("nothing is clipped"));
  EXPECT_THAT(warning({"lr.warmup_steps=1000"}), HasSubstr("rises to its peak and never falls"));
  EXPECT_THAT(warning({"quant.activation.granularity=tensor"}), HasSubstr("depends on later tokens"));
  EXPECT_THAT(warning({"quant.activation.granularity=tensor", "quant.activation.range=calibrated"}), IsEmpty());
  EXPECT_THAT(warning({"quant.widths=[2,16]", "precision.min_bits=2", "precision.max_bits=16"}),
              HasSubstr("more than 12 bits"));
}

}  // namespace
}  // namespace qat

#include "src/config/field_table.h"

#include <initializer_list>

#include "src/config/field_rules.h"
#include "src/config/parallel_fields.h"
#include "src/config/question_fields.h"

namespace qat {
namespace {

using rules::any;
using rules::between;
using rules::bits;
using rules::code_width;
using rules::dropout;
using rules::fraction;
using rules::from;
using rules::key;
using rules::kMostOfAny;
using rules::list;
using rules::maybe_empty;
using rules::normal_float;
using rules::one_of;
using rules::preset_name;
using rules::width;
using rules::width_or_zero;

using R = RunConfig;
using Q = QuantConfig;

using rules::add_quantizers;
using rules::Fields;

void add_run(Fields& f) {
  f.push_back(
      key("run.dir", at(&R::run, &RunSection::dir), any(), "",
          "folder that everything a run writes goes into; with several nodes, on a file system that all of them share",
          {"output_dir", "out_dir", "save_dir"}));
  f.push_back(key("run.seed", at(&R::run, &RunSection::seed), from(0), "",
                  "seed of initialisation, sampling, dropout and stochastic rounding"));
  f.push_back(key("run.resume", at(&R::run, &RunSection::resume), any(), "",
                  "auto: from the newest checkpoint in run.dir, if there is one; never: refuse a folder that has one; "
                  "else the checkpoint folder to go on from",
                  {"resume_from", "automatic_resume"}));
}

void add_model(Fields& f) {
  using M = Gpt2Config;
  f.push_back(
      key("model.preset", at(&R::model, &M::preset), preset_name(), "",
          "sizes by name; fills n_layer, n_head, n_embd, n_positions and vocab_size unless they are given as well "
          "(a preset from --set replaces the file's sizes)",
          {"model_name", "size"}));
  f.push_back(key("model.n_layer", at(&R::model, &M::n_layer), between(1, 1024), "", "transformer blocks",
                  {"layers", "num_layers", "num_hidden_layers"}));
  f.push_back(key("model.n_head", at(&R::model, &M::n_head), between(1, 1024), "", "attention heads; divides n_embd",
                  {"heads", "num_heads", "num_attention_heads"}));
  f.push_back(key("model.n_embd", at(&R::model, &M::n_embd), between(1, 65536), "values",
                  "width of the residual stream", {"d_model", "hidden_size", "embed_dim"}));
  f.push_back(key("model.n_positions", at(&R::model, &M::n_positions), between(1, 1 << 20), "tokens",
                  "longest sequence", {"n_ctx", "max_seq_len", "max_position_embeddings"}));
  f.push_back(key("model.vocab_size", at(&R::model, &M::vocab_size), between(1, 65536), "",
                  "token ids are below it; token files hold 16-bit ids", {"n_vocab"}));
  f.push_back(key("model.init", at(&R::model, &M::init), any(), "",
                  "random: normal(0, 0.02); checkpoint: parameters from init_from"));
  f.push_back(key("model.init_from", at(&R::model, &M::init_from), maybe_empty(), "",
                  "a checkpoint folder, a run folder (its newest checkpoint), or the folder of a GPT-2 of transformers",
                  {"pretrained", "model_path", "checkpoint_path"}));
  f.push_back(key("model.freeze_base", at(&R::model, &M::freeze_base), any(), "",
                  "train only the LoRA adapters and layer norms"));
  f.push_back(key("model.tie_lm_head", at(&R::model, &M::tie_lm_head), any(), "",
                  "the output projection is the token embedding", {"tie_word_embeddings", "tie_weights"}));
  f.push_back(key("model.quantize_lm_head", at(&R::model, &M::quantize_lm_head), any(), "",
                  "the output projection is a quantized linear layer with its own adapter"));
  f.push_back(key("model.norm_slots", at(&R::model, &M::norm_slots), any(), "",
                  "shared: the same layer norms at every width; per_width: each width, 32 too, has its own",
                  {"switchable_norms", "switchable_layer_norm"}));
  f.push_back(key("model.embd_dropout", at(&R::model, &M::embd_dropout), dropout(), "probability",
                  "dropout after the embeddings", {"embd_pdrop", "dropout"}));
  f.push_back(key("model.attn_dropout", at(&R::model, &M::attn_dropout), dropout(), "probability",
                  "dropout on attention probabilities", {"attn_pdrop"}));
  f.push_back(key("model.resid_dropout", at(&R::model, &M::resid_dropout), dropout(), "probability",
                  "dropout on what attention and MLP add to the residual stream", {"resid_pdrop"}));
}

void add_lora(Fields& f) {
  f.push_back(key("lora.rank", at(&R::lora, &LoraConfig::rank), between(0, 65536), "",
                  "rank of the adapters; 0: no adapters", {"lora_rank", "r"}));
  f.push_back(key("lora.alpha", at(&R::lora, &LoraConfig::alpha), between(1e-6, kMostOfAny), "",
                  "adapters are scaled by alpha / rank", {"lora_alpha"}));
  f.push_back(key("lora.slots", at(&R::lora, &LoraConfig::slots), any(), "",
                  "shared: one adapter a layer, used at every width; per_width: one for each width of quant.widths "
                  "(and of quant.overrides), of which a step trains those of its own widths",
                  {"adapter_slots", "switchable_lora"}));
  f.push_back(key("lora.quantize", at(&R::lora, &LoraConfig::quantize), any(), "",
                  "quantize the adapters' A and B at the weight width, each with its own scales"));
  f.push_back(key("lora.input", at(&R::lora, &LoraConfig::input), any(), "",
                  "what adapters multiply: the layer's quantized input, or the raw one, before quantization"));
  f.push_back(
      key("lora.rank_rule", at(&R::lora, &LoraConfig::rank_rule), any(), "",
          "fixed: rank and alpha as given; by_width: of widths' own adapters, rank min(4, in/128) up to 4 bits, "
          "min(8, in/64) up to 8, min(16, in/32) above (at least 1, 2, 4), alpha rank * bits / 2"));
  f.push_back(key("lora.per_width", at(&R::lora, &LoraConfig::per_width), maybe_empty(), "",
                  "what the adapters of single widths have of their own; needs lora.slots per_width"));
}

void add_quant(Fields& f) {
  f.push_back(key("quant.widths", at(&R::quant, &Q::widths), list(width(), /*empty_allowed=*/false, /*unique=*/true),
                  "bits", "widths that training may visit and evaluation reports; 32: not quantized",
                  {"bit_widths", "bits", "precisions", "num_bits"}));
  f.push_back(key("quant.maps", at(&R::quant, &Q::maps), list({}, /*empty_allowed=*/true, /*unique=*/true), "",
                  "widths layer by layer, each as a text (8,8,4,...; stripe8&4; W4A8KV8; attn=8,mlp=4,kv=8; see "
                  "[precision.md](precision.md)), that training visits in place of quant.widths",
                  {"bitmaps", "layer_precision", "bitmap"}));
  f.push_back(key("quant.activation_bits", at(&R::quant, &Q::activation_bits), width_or_zero(), "bits",
                  "width of activations; 0: the weight width of the step", {"a_bits", "activation_bits_per_bit"}));
  f.push_back(key("quant.kv_bits", at(&R::quant, &Q::kv_bits), bits(BitWidth::kMax, /*zero=*/false), "bits",
                  "width of attention's keys and values where a map does not say another, one dynamic symmetric scale "
                  "a token over all heads; 32: not quantized, as in unquantized steps",
                  {"kv", "kv_cache_bits", "kv_bit_width"}));
  add_quantizers(f);
  f.push_back(key("quant.stochastic_gradients", at(&R::quant, &Q::stochastic_gradients), any(), "",
                  "round gradients stochastically, else to the nearest code"));
  f.push_back(key("quant.log_grad_clip", at(&R::quant, &Q::log_grad_clip), normal_float(), "",
                  "log quantizer: gradients through it are clamped to this magnitude"));
  f.push_back(key("quant.overrides", at(&R::quant, &Q::overrides), maybe_empty(), "",
                  "widths of single layers, in place of the schedule's; applied in order, later ones win",
                  {"layer_specific_bits", "layer_bits"}));
}

void add_data(Fields& f) {
  f.push_back(
      key("data.train", at(&R::data, &DataConfig::train), any(), "",
          "training token files (.bin, llm.c layout; globs allowed), or [\"builtin\"]: the system's own text, as "
          "bytes; span_qa: SQuAD files, or [\"builtin\"]: made-up questions",
          {"train_files", "dataset", "train_data"}));
  f.push_back(key("data.val", at(&R::data, &DataConfig::val), any(), "",
                  "held-out files of the same kind and tokenizer; [\"builtin\"] is bytes, as data.train's",
                  {"valid", "validation", "val_files"}));
  f.push_back(key("data.sequence_length", at(&R::data, &DataConfig::sequence_length), between(1, 1 << 20), "tokens",
                  "length of a sample; at most model.n_positions",
                  {"seq_len", "seq_length", "block_size", "max_length", "max_seq_length", "context_length"}));
  f.push_back(
      key("data.allow_change", at(&R::data, &DataConfig::allow_change), any(), "",
          "resume although the training files are not those that the checkpoint was trained on; the run goes on "
          "at the same sample number, in the new files"));
}

void add_training(Fields& f) {
  using O = OptimConfig;
  using T = TrainConfig;
  constexpr double kMostSteps = 1e9;
  constexpr double kMostSequences = 1 << 24;
  // The square of a gradient below 4e-23 is 0 in fp32, and so is the root that eps is added to: a smaller eps would
  // turn that gradient into a step of any size.
  constexpr double kSmallestEps = 1e-20;
  f.push_back(key("optim.beta1", at(&R::optim, &O::beta1), fraction(), "", "AdamW: decay of the first moment",
                  {"adam_beta1", "betas"}));
  f.push_back(key("optim.beta2", at(&R::optim, &O::beta2), fraction(), "", "AdamW: decay of the second moment",
                  {"adam_beta2"}));
  f.push_back(key("optim.eps", at(&R::optim, &O::eps), between(kSmallestEps, kMostOfAny), "",
                  "AdamW: added to the root of the second moment", {"adam_epsilon", "epsilon"}));
  f.push_back(key("optim.weight_decay", at(&R::optim, &O::weight_decay), between(0, kMostOfAny), "",
                  "AdamW: decoupled decay; not on layer norms and biases"));
  f.push_back(key("optim.range_lr_factor", at(&R::optim, &O::range_lr_factor), between(0, kMostOfAny), "",
                  "times the learning rate: that of what quantizers train (quant.weight.method lsq and groupwise, "
                  "quant.activation.range learned), whose numbers are small beside weights",
                  {"lsq_lr", "quant_lr"}));
  f.push_back(key("optim.clip_norm", at(&R::optim, &O::clip_norm), from(0), "",
                  "gradients are scaled down to this norm; 0: no clipping",
                  {"grad_clip", "clip", "max_grad_norm", "gradient_clipping"}));
  f.push_back(key("optim.clip_scope", at(&R::optim, &O::clip_scope), any(), "",
                  "whose norm that is: global, of all gradients; width, of each width's own parameters by themselves "
                  "(lora.slots, model.norm_slots per_width), and of all others; auto: width where an update trains "
                  "several widths (train.recipe sp, spnet, instantnet), else global"));
  f.push_back(key("optim.noise", at(&R::optim, &O::noise), between(0, kMostOfAny), "",
                  "normal noise on clipped gradients of updates at low widths: its deviation; 0: none",
                  {"noise_scale_factor", "gradient_noise"}));
  f.push_back(key("optim.noise_scale", at(&R::optim, &O::noise_scale), any(), "",
                  "optim.noise counts in root mean squares of each tensor's clipped gradient, or is the deviation"));
  f.push_back(key("optim.noise_max_bits", at(&R::optim, &O::noise_max_bits), width(), "bits",
                  "widest weights whose updates get noise"));
  f.push_back(key(
      "train.recipe", at(&R::train, &T::recipe), any(), "",
      "what a step trains: cpt, the width or map that the precision schedule gives it; spnet, all of quant.maps (or of "
      "quant.widths), whose losses, by equal shares, are one update; per_map, all of them on the same samples, an "
      "update for each in the order of the list; sp, some of them, drawn at random, as one update; instantnet, as "
      "spnet, each learning from those above it",
      {"training_style"}));
  f.push_back(key("train.students", at(&R::train, &T::students), between(1, 17), "widths",
                  "sp only: widths below 32 that a step trains", {"num_students"}));
  f.push_back(key("train.student_draw", at(&R::train, &T::student_draw), any(), "",
                  "sp only: rounds, each width comes once in a round of them all; sandwich, the narrowest is in every "
                  "step and the others come so"));
  f.push_back(key("train.steps", at(&R::train, &T::steps), between(1, kMostSteps), "steps",
                  "steps; each is an optimizer step but with train.recipe per_map, where it is one a width",
                  {"iterations", "max_steps", "num_iterations", "iters", "max_iters", "epochs", "num_epochs"}));
  f.push_back(key("train.batch_size", at(&R::train, &T::batch_size), between(1, kMostSequences), "sequences",
                  "sequences a step, over all ranks", {"global_batch_size", "total_batch_size"}));
  f.push_back(
      key("train.micro_batch_size", at(&R::train, &T::micro_batch_size), between(1, kMostSequences), "sequences",
          "sequences a forward and backward pass; batch_size / (micro_batch_size * ranks) passes are accumulated",
          {"gradient_accumulation_steps", "accumulation_steps", "per_device_batch_size"}));
  f.push_back(
      key("train.accumulate", at(&R::train, &T::accumulate), any(), "",
          "how a rank adds up the gradients of its passes: tree, whose bits do not depend on the number of ranks, or "
          "running, one after the other in one buffer: less memory, and bits that depend on the number of ranks",
          {"gradient_accumulation"}));
  f.push_back(key("train.max_skips", at(&R::train, &T::max_skips), between(1, kMostOfAny), "steps",
                  "stop with exit code 8 after so many skipped steps in a row; the newest healthy checkpoint stays"));
  f.push_back(key("train.spike_deviations", at(&R::train, &T::spike_deviations), from(0), "standard deviations",
                  "skip a step whose loss is so far above the running mean of its width; 0: never",
                  {"loss_spike_threshold", "skip_spikes"}));
  f.push_back(
      key("train.spike_window", at(&R::train, &T::spike_window), between(2, kMostOfAny), "steps",
          "steps that the running mean and deviation of the loss look back over; a width has no spikes before it "
          "has had so many"));
  f.push_back(
      key("train.replica_check_every", at(&R::train, &T::replica_check_every), between(0, kMostSteps), "steps",
          "steps between comparisons of all ranks' parameters (exit 9 if they differ); 0: only before checkpoints"));
  f.push_back(
      key("train.on_out_of_memory", at(&R::train, &T::on_out_of_memory), any(), "",
          "a pass for which memory does not suffice, on any rank: stop with exit code 5, or smaller_micro_batch: "
          "all ranks do the step again, and the rest of the run, in smaller passes; the batch stays",
          {"auto_micro_batch", "auto_find_batch_size"}));
  f.push_back(key("train.log_every", at(&R::train, &T::log_every), between(1, kMostSteps), "steps",
                  "steps between lines of metrics", {"log_interval", "logging_steps"}));
  f.push_back(key("eval.every", at(&R::eval, &EvalConfig::every), between(0, kMostSteps), "steps",
                  "steps between evaluations; 0: only at the end", {"eval_interval", "eval_every", "eval_steps"}));
  f.push_back(key("eval.at_start", at(&R::eval, &EvalConfig::at_start), any(), "",
                  "also evaluate the untrained model, at 32 bits"));
  f.push_back(key("eval.bits", at(&R::eval, &EvalConfig::bits), list(width(), /*empty_allowed=*/true, /*unique=*/true),
                  "bits",
                  "widths to evaluate; without eval.maps and empty: every map of quant.maps or, where there are none, "
                  "every width of quant.widths"));
  f.push_back(key("eval.maps", at(&R::eval, &EvalConfig::maps), list({}, /*empty_allowed=*/true, /*unique=*/true), "",
                  "widths layer by layer to evaluate, as in quant.maps"));
  f.push_back(key("eval.max_tokens", at(&R::eval, &EvalConfig::max_tokens), from(0), "tokens",
                  "held-out tokens used, at least 2; 0: all of them"));
  f.push_back(key("eval.stride", at(&R::eval, &EvalConfig::stride), from(0), "tokens",
                  "tokens between windows; 0: data.sequence_length, so that windows do not overlap"));
  f.push_back(key("eval.batch_size", at(&R::eval, &EvalConfig::batch_size), between(1, kMostSequences), "windows",
                  "windows a forward pass", {"eval_batch_size"}));
  f.push_back(key("eval.patience", at(&R::eval, &EvalConfig::patience), between(0, kMostSteps), "evaluations",
                  "training ends early after so many evaluations in a row without a better held-out loss (mean over "
                  "eval.bits); 0: never",
                  {"early_stopping_patience", "early_stopping"}));
  f.push_back(key("eval.min_delta", at(&R::eval, &EvalConfig::min_delta), from(0), "nats a token",
                  "a held-out loss is better if it is lower by more than this", {"early_stopping_threshold"}));
  f.push_back(key("checkpoint.every", at(&R::checkpoint, &CheckpointConfig::every), between(0, kMostSteps), "steps",
                  "steps between checkpoints; 0: only at the end",
                  {"save_interval", "save_every", "checkpoint_every", "save_steps"}));
  f.push_back(key("checkpoint.keep", at(&R::checkpoint, &CheckpointConfig::keep), between(0, kMostOfAny), "",
                  "newest checkpoints kept, beside the newest healthy one and the one that run.resume named; 0: all",
                  {"save_total_limit"}));
  f.push_back(
      key("checkpoint.keep_best", at(&R::checkpoint, &CheckpointConfig::keep_best), any(), "",
          "also keep the checkpoint of the evaluation with the lowest held-out loss: checkpoints/best leads to it",
          {"load_best_model_at_end", "save_best"}));
  f.push_back(
      key("checkpoint.on_error", at(&R::checkpoint, &CheckpointConfig::on_error), any(), "",
          "a checkpoint that cannot be written: stop with exit code 4, or continue with a warning (exit code 4 at "
          "the end, if it is the last)"));
}

void add_compute(Fields& f) {
  using C = ComputeConfig;
  f.push_back(key("compute.device", at(&R::compute, &C::device), any(), "",
                  "auto: a GPU a rank where there are GPUs, else CPUs; cpu; cuda: refuse to run without", {"device"}));
  f.push_back(key("compute.dtype", at(&R::compute, &C::dtype), any(), "",
                  "activations and unquantized products: auto: bf16 on GPUs, fp32 on CPUs; tf32: fp32 whose products "
                  "run on tensor cores",
                  {"dtype", "precision_mode", "mixed_precision", "amp", "use_amp", "bf16", "fp16"}));
  f.push_back(key("compute.attention", at(&R::compute, &C::attention), any(), "",
                  "fastest: cuDNN's kernels in bf16; repeatable: kernels whose backward gives the same bits every time",
                  {"deterministic", "attention_backend"}));
  f.push_back(
      key("compute.recompute", at(&R::compute, &C::recompute), any(), "",
          "what backward computes again to save memory, with the same bits: block: a transformer block from its "
          "input; selective: GELU's output (where a GPU's blocks are fused; else as none)",
          {"gradient_checkpointing", "activation_checkpointing", "checkpoint_activations", "recompute"}));
}

void add_watchdog(Fields& f) {
  using W = WatchdogConfig;
  f.push_back(
      key("watchdog.limit_seconds", at(&R::watchdog, &W::limit_seconds), between(0, 1e7), "seconds",
          "a rank without progress for so long ends the run with exit code 7; where ten times the longest pause "
          "seen is less, that (at least 30) holds instead; 0: nobody watches",
          {"timeout", "nccl_timeout", "ddp_timeout", "distributed_timeout_minutes", "watchdog_timeout"}));
  f.push_back(key("watchdog.straggler_window", at(&R::watchdog, &W::straggler_window), between(0, kMostOfAny), "steps",
                  "a rank whose own work takes 20 % longer than the others' over so many steps gets a warning line; 0: "
                  "never",
                  {"straggler_detection", "log_straggler"}));
}

}  // namespace

const std::vector<Field<RunConfig>>& run_fields() {
  static const std::vector<Field<RunConfig>> fields = [] {
    Fields f;
    add_run(f);
    add_model(f);
    add_lora(f);
    add_quant(f);
    rules::add_schedules(f);
    rules::add_range_test(f);
    add_data(f);
    add_training(f);
    add_distill_fields(f);
    add_parallel_fields(f);
    add_comm_fields(f);
    add_compute(f);
    add_watchdog(f);
    add_question_fields(f);
    add_report_fields(f);
    return f;
  }();
  return fields;
}

}  // namespace qat

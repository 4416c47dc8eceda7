#include "src/config/field_table.h"

#include <initializer_list>

#include "src/config/field_rules.h"
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

using Fields = std::vector<Field<R>>;

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
}

void add_quantizer(Fields& f, const std::string& section, QuantizerConfig Q::*role,
                   std::vector<std::string> granularities, const std::string& granularity_meaning) {
  using C = QuantizerConfig;
  f.push_back(key(section + ".method", at(&R::quant, role, &C::method), any(), "",
                  "minmax: even steps; log: even steps of the magnitude's logarithm", {"quantizer_type", "quantizer"}));
  f.push_back(key(section + ".symmetric", at(&R::quant, role, &C::symmetric), any(), "",
                  "minmax only: true: codes -q..q, q = 2^(bits-1)-1; false: affine codes 0..2^bits-1"));
  f.push_back(key(section + ".log_codebook", at(&R::quant, role, &C::log_codebook), one_of({"packed", "seed"}), "",
                  "log only: packed: 2^bits-1 values; seed: 2^(bits+1)-1 values, which take bits+1 bits"));
  f.push_back(key(section + ".granularity", at(&R::quant, role, &C::granularity), one_of(std::move(granularities)), "",
                  granularity_meaning, {"per_channel", "per_channel_quantization"}));
}

void add_quant(Fields& f) {
  f.push_back(key("quant.widths", at(&R::quant, &Q::widths), list(width(), /*empty_allowed=*/false, /*unique=*/true),
                  "bits", "widths that training may visit and evaluation reports; 32: not quantized",
                  {"bit_widths", "bits", "precisions", "num_bits"}));
  f.push_back(key("quant.activation_bits", at(&R::quant, &Q::activation_bits), width_or_zero(), "bits",
                  "width of activations; 0: the weight width of the step", {"a_bits", "activation_bits_per_bit"}));
  f.push_back(key("quant.kv_bits", at(&R::quant, &Q::kv_bits), code_width(), "bits",
                  "width of attention's keys and values, one dynamic symmetric scale a token over all heads; 32: not "
                  "quantized, as in unquantized steps",
                  {"kv", "kv_cache_bits", "kv_bit_width"}));
  add_quantizer(f, "quant.weight", &Q::weight, {"tensor", "channel"}, "one scale per tensor or per output channel");
  add_quantizer(f, "quant.activation", &Q::activation, {"tensor", "token", "feature"},
                "one scale per tensor, per token (dynamic ranges only) or per input feature (calibrated ranges only)");
  // Weights change with every step, so theirs are always dynamic.
  f.push_back(key("quant.activation.range", at(&R::quant, &Q::activation, &QuantizerConfig::range), any(), "",
                  "dynamic: ranges from the values at hand; calibrated: from the calibration batches",
                  {"calibration_method"}));
  f.push_back(key("quant.stochastic_gradients", at(&R::quant, &Q::stochastic_gradients), any(), "",
                  "round gradients stochastically, else to the nearest code"));
  f.push_back(key("quant.log_grad_clip", at(&R::quant, &Q::log_grad_clip), normal_float(), "",
                  "log quantizer: gradients through it are clamped to this magnitude"));
  f.push_back(key("quant.calibration_batches", at(&R::quant, &Q::calibration_batches), between(1, kMostOfAny),
                  "micro-batches", "batches that calibrated ranges are taken from",
                  {"warm_up_batches", "calibration_steps"}));
  constexpr double kMostSteps = 1e9;
  f.push_back(
      key("quant.recalibrate_every", at(&R::quant, &Q::recalibrate_every), between(0, kMostSteps), "steps",
          "calibrated ranges grow old at every multiple of so many steps: training takes a width's anew when it "
          "next uses it; 0: never"));
  f.push_back(key("quant.overrides", at(&R::quant, &Q::overrides), maybe_empty(), "",
                  "widths of single layers, in place of the schedule's; applied in order, later ones win",
                  {"layer_specific_bits", "layer_bits"}));
}

void add_schedules(Fields& f) {
  using P = PrecisionScheduleConfig;
  using L = LrScheduleConfig;
  f.push_back(key("precision.kind", at(&R::precision, &P::kind), any(), "", "shape of the precision schedule",
                  {"schedule_type", "schedule"}));
  f.push_back(key("precision.phase", at(&R::precision, &P::phase), any(), "",
                  "cosine only: rise: min to max, then jump (arXiv:2101.09868); full: min to max to min; fall: max to "
                  "min after warmup_steps at max"));
  f.push_back(key("precision.unit", at(&R::precision, &P::unit), any(), "",
                  "the schedule advances per step or per epoch (one pass over the training tokens)"));
  f.push_back(key("precision.cycles", at(&R::precision, &P::cycles), from(1), "",
                  "cycles over the whole run, each at least 2 units long",
                  {"total_cycles", "num_cycles", "num_cyclic_period"}));
  f.push_back(key("precision.min_bits", at(&R::precision, &P::min_bits), width(), "bits", "lowest scheduled width"));
  f.push_back(key("precision.max_bits", at(&R::precision, &P::max_bits), width(), "bits", "highest scheduled width"));
  f.push_back(key("precision.list", at(&R::precision, &P::list),
                  list(width(), /*empty_allowed=*/true, /*unique=*/false), "bits",
                  "list only: the widths of one cycle, each held for an equal share of it",
                  {"pattern", "bit_width_pattern", "bit_width_schedule"}));
  f.push_back(key("precision.warmup_steps", at(&R::precision, &P::warmup_steps), from(0), "units",
                  "fall only: steps or epochs at max_bits before the first cycle"));
  f.push_back(key("precision.grad_kind", at(&R::precision, &P::grad_kind), any(), "",
                  "gradient bits: constant: grad_min_bits always; scheduled: as the widths, between both bounds"));
  f.push_back(key("precision.grad_min_bits", at(&R::precision, &P::grad_min_bits), code_width(), "bits",
                  "width of backward's gradients; 32: not quantized", {"gradient_bits", "grad_bits", "num_grad_bits"}));
  f.push_back(key("precision.grad_max_bits", at(&R::precision, &P::grad_max_bits), code_width(), "bits",
                  "scheduled only: highest width of gradients"));
  f.push_back(key("lr.peak", at(&R::lr, &L::peak), normal_float(), "", "learning rate after warm-up",
                  {"learning_rate", "max_lr", "base_lr"}));
  f.push_back(
      key("lr.min_ratio", at(&R::lr, &L::min_ratio), between(0, 1), "",
          "the last step's learning rate is peak * min_ratio, except with lr.decay \"constant\" or where warm-up takes "
          "every step",
          {"min_learning_rate", "min_lr", "eta_min"}));
  f.push_back(key("lr.warmup_steps", at(&R::lr, &L::warmup_steps), from(0), "steps",
                  "linear from peak / warmup_steps to peak, which the last of these steps has",
                  {"warmup", "warmup_iters", "warmup_ratio"}));
  f.push_back(key("lr.decay", at(&R::lr, &L::decay), any(), "", "how the learning rate falls after warm-up",
                  {"scheduler_type", "lr_scheduler"}));
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
  f.push_back(key("optim.clip_norm", at(&R::optim, &O::clip_norm), from(0), "",
                  "gradients are scaled down to this global norm; 0: no clipping",
                  {"grad_clip", "clip", "max_grad_norm", "gradient_clipping"}));
  f.push_back(key(
      "train.recipe", at(&R::train, &T::recipe), any(), "",
      "what a step trains: cpt, the width that the precision schedule gives it; spnet, all of quant.widths, whose "
      "losses, by equal shares, are one update; per_map, all of quant.widths on the same samples, an update for each "
      "in the order of the list",
      {"training_style"}));
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
                  "bits", "widths to evaluate; empty: every width of quant.widths"));
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
  f.push_back(key("checkpoint.on_error", at(&R::checkpoint, &CheckpointConfig::on_error), any(), "",
                  "a checkpoint that cannot be written: stop with exit code 4, or continue with a warning"));
  f.push_back(key("parallel.data", at(&R::parallel, &ParallelConfig::data), between(0, kMostOfAny), "ranks",
                  "data-parallel ranks; 0: all ranks / parallel.pipeline", {"dp", "data_parallel", "dp_size"}));
  f.push_back(key("parallel.pipeline", at(&R::parallel, &ParallelConfig::pipeline), between(1, kMostOfAny), "stages",
                  "pipeline stages", {"pp", "pipeline_parallel", "pp_size"}));
  f.push_back(key("parallel.threads_per_rank", at(&R::parallel, &ParallelConfig::threads_per_rank),
                  between(0, kMostOfAny), "threads",
                  "CPU threads of a rank; 0: the node's cores / its ranks, at least 1",
                  {"num_threads", "omp_num_threads", "threads"}));
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
    add_schedules(f);
    add_data(f);
    add_training(f);
    add_compute(f);
    add_watchdog(f);
    add_question_fields(f);
    return f;
  }();
  return fields;
}

const std::vector<Field<LayerOverride>>& override_fields() {
  using O = LayerOverride;
  static const std::vector<Field<O>> fields = {
      key("layers", at(&O::layers), any(), "",
          "glob over layer names: h.0.attn.c_attn, h.*.mlp.c_proj, lm_head; * matches any characters, ? one, [0-3] one "
          "of a set"),
      key("weight_bits", at(&O::weight_bits), width_or_zero(), "bits", "0: as scheduled", {"bits", "w_bits"}),
      key("activation_bits", at(&O::activation_bits), width_or_zero(), "bits", "0: as scheduled", {"a_bits"}),
      key("gradient_bits", at(&O::gradient_bits), code_width(/*zero=*/true), "bits", "0: as scheduled", {"grad_bits"})};
  return fields;
}

const std::vector<Section>& config_sections() {
  static const std::vector<Section> sections = {
      {"run", "where a run writes, its seed, and what it resumes from"},
      {"model", "sizes and switches of the network"},
      {"lora", "adapters W x + (alpha / rank) B A x, off at 32 bits"},
      {"quant", "what is quantized, how, and with which ranges"},
      {"quant.weight", "quantizer of the weights"},
      {"quant.activation", "quantizer of the inputs of linear layers"},
      {"precision", "which width a step uses"},
      {"lr", "learning rate over the run"},
      {"data", "where tokens come from, or questions; relative paths are relative to the working folder"},
      {"optim", "AdamW and gradient clipping"},
      {"train", "the training loop"},
      {"eval", "held-out perplexity, or how well questions are answered"},
      {"checkpoint", "checkpoints during a run; there is always one at its end"},
      {"parallel", "how the ranks are used"},
      {"compute", "where, and in which arithmetic, the work runs that is not on integer codes"},
      {"watchdog", "ranks that hang, die or are slow"}};
  return sections;
}

const Field<RunConfig>* find_field(std::string_view path) {
  for (const auto& field : run_fields()) {
    if (field.path == path) return &field;
  }
  return nullptr;
}

const Section* find_section(std::string_view path) {
  for (const Section& section : config_sections()) {
    if (section.path == path) return &section;
  }
  return nullptr;
}

}  // namespace qat

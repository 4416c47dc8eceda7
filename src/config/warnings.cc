#include "src/config/warnings.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <set>
#include <utility>

#include "kernels/common/bit_width.h"
#include "src/schedule/schedule_rules.h"

namespace qat {
namespace {

class Warner {
 public:
  explicit Warner(const RunConfig& config) : c_(config) {}

  std::vector<Finding> run() {
    without_effect();
    doubtful();
    return std::move(found_);
  }

 private:
  void warn(std::string path, std::string rule, std::vector<std::string> also = {}) {
    found_.push_back({std::move(path), std::move(rule), std::move(also), "", ""});
  }
  // A value that differs from the default was meant to change something.
  template <typename T>
  void unused(const char* path, const T& value, const T& standard, const std::string& reason, std::string because) {
    if (!(value == standard)) warn(path, "has no effect: " + reason, {std::move(because)});
  }

  void unused_of_comm() {
    const CommConfig &comm = c_.comm, &usual = standard_.comm;
    const bool exact = comm.wire == WireFormatName::kFp32, codes = !exact && comm.wire != WireFormatName::kBf16;
    for (const auto& [path, unused] :
         {std::pair{"comm.sum", !codes && comm.sum != usual.sum},
          {"comm.block", !codes && comm.block != usual.block},
          {"comm.stochastic_rounding", !codes && comm.stochastic_rounding != usual.stochastic_rounding},
          {"comm.error_feedback", exact && comm.error_feedback != usual.error_feedback},
          {"comm.self_check", exact && comm.self_check != usual.self_check}})
      if (unused) warn(path, fmt::format("has no effect with comm.wire \"{}\"", enum_name(comm.wire)), {"comm.wire"});
  }

  void unused_of_distill() {
    const DistillConfig &d = c_.distill, &d0 = standard_.distill;
    const bool auto_teacher = d.teacher == TeacherChoice::kAuto;
    const bool by_recipe = c_.train.recipe == Recipe::kSp || c_.train.recipe == Recipe::kInstantnet;
    if (d.teacher == TeacherChoice::kNone || (auto_teacher && !by_recipe)) {
      for (const auto& [path, differs] : {std::pair{"distill.weight", d.weight != d0.weight},
                                          {"distill.cross_entropy", d.cross_entropy != d0.cross_entropy},
                                          {"distill.temperature", d.temperature != d0.temperature},
                                          {"distill.features", d.features != d0.features},
                                          {"distill.start_step", d.start_step != d0.start_step}})
        unused(path, differs, false, "no pass has a teacher", "distill.teacher");
    } else if (d.features == 0.0) {
      unused("distill.feature_layers", !d.feature_layers.empty(), false, "no hidden states are compared",
             "distill.features");
      unused("distill.feature_pick", d.feature_pick, d0.feature_pick, "no hidden states are compared",
             "distill.features");
    }
  }

  void without_effect() {
    const PrecisionScheduleConfig& p = c_.precision;
    const PrecisionScheduleConfig& p0 = standard_.precision;
    if (c_.train.recipe != Recipe::kCpt) {
      for (const auto& [path, differs] :
           {std::pair{"precision.kind", p.kind != p0.kind},
            {"precision.phase", p.phase != p0.phase},
            {"precision.reflection", p.reflection != p0.reflection},
            {"precision.unit", p.unit != p0.unit},
            {"precision.cycles", p.cycles != p0.cycles},
            {"precision.min_bits", p.min_bits != p0.min_bits},
            {"precision.max_bits", p.max_bits != p0.max_bits},
            {"precision.list", p.list != p0.list},
            {"precision.cycle_drop", p.cycle_drop != p0.cycle_drop},
            {"precision.warmup_steps", p.warmup_steps != p0.warmup_steps},
            {"precision.switch_interval", p.switch_interval != p0.switch_interval},
            {"precision.switch_probability", p.switch_probability != p0.switch_probability},
            {"precision.pattern", p.pattern != p0.pattern},
            {"precision.layer_offset", p.layer_offset != p0.layer_offset},
            {"precision.static_after", p.static_after != p0.static_after},
            {"precision.static_at", p.static_at != p0.static_at}})
        unused(path, differs, false, "the recipe takes its widths from quant.maps or quant.widths", "train.recipe");
    } else {
      unused_of_schedule();
    }
    if (c_.train.recipe != Recipe::kSp) {
      unused("train.students", c_.train.students, standard_.train.students, "only sp draws widths", "train.recipe");
      unused("train.student_draw", c_.train.student_draw, standard_.train.student_draw, "only sp draws widths",
             "train.recipe");
      unused("distill.teacher_cross_entropy", c_.distill.teacher_cross_entropy, standard_.distill.teacher_cross_entropy,
             "only sp has a teacher that may learn", "train.recipe");
    }
    unused_of_distill();
    unused_of_comm();
    unused_of_lr();
    if (p.grad_kind == GradientSchedule::kConstant)
      unused("precision.grad_max_bits", p.grad_max_bits, p0.grad_max_bits, "constant gradient bits are grad_min_bits",
             "precision.grad_kind");
    if (c_.model.init != ModelInit::kCheckpoint)
      unused("model.init_from", c_.model.init_from, standard_.model.init_from, "parameters are drawn at random",
             "model.init");
    unused_of_task();
    unused_of_adapters();
    unused_of_pipeline();
    unused_of_clipping();
    unused_of_noise();
    if (c_.compute.recompute == Recompute::kSelective && c_.compute.device == DeviceChoice::kCpu)
      warn("compute.recompute", "has no effect: only a GPU's blocks are recomputed selectively", {"compute.device"});
    const QuantConfig& q = c_.quant;
    if (!q.weight.uses(QuantizerKind::kLog) && !q.activation.uses(QuantizerKind::kLog))
      unused("quant.log_grad_clip", q.log_grad_clip, standard_.quant.log_grad_clip, "nothing is quantized by log",
             "quant.weight.method");
    if (q.activation.range == RangeSource::kDynamic)
      unused("quant.calibration_batches", q.calibration_batches, standard_.quant.calibration_batches,
             "every range is dynamic", "quant.activation.range");
    if (q.activation.range != RangeSource::kCalibrated)
      unused("quant.recalibrate_every", q.recalibrate_every, standard_.quant.recalibrate_every,
             "no range is calibrated", "quant.activation.range");
    unused_of_quantizers();
    if (!q.weight.uses(QuantizerKind::kLog))
      unused("quant.weight.log_codebook", q.weight.log_codebook, standard_.quant.weight.log_codebook,
             "the method is not log", "quant.weight.method");
    if (!q.activation.uses(QuantizerKind::kLog))
      unused("quant.activation.log_codebook", q.activation.log_codebook, standard_.quant.activation.log_codebook,
             "the method is not log", "quant.activation.method");
  }

  void unused_of_pipeline() {
    const ParallelConfig &p = c_.parallel, &p0 = standard_.parallel;
    if (p.pipeline > 1) return;
    for (const auto& [path, differs] : {std::pair{"parallel.schedule", p.schedule != p0.schedule},
                                        {"parallel.chunks", p.chunks != p0.chunks},
                                        {"parallel.cut", p.cut != p0.cut},
                                        {"parallel.transfer", p.transfer != p0.transfer},
                                        {"parallel.timeline_step", p.timeline_step != p0.timeline_step}})
      unused(path, differs, false, "there is one stage", "parallel.pipeline");
  }

  void unused_of_adapters() {
    const LoraConfig& lora = c_.lora;
    const LoraConfig& standard = standard_.lora;
    if (lora.rank_rule == RankRule::kByWidth) {
      unused("lora.rank", lora.rank, standard.rank, "ranks follow from the widths", "lora.rank_rule");
      unused("lora.alpha", lora.alpha, standard.alpha, "alpha follows from the widths", "lora.rank_rule");
    } else if (!has_adapters(c_.lora, quantized_weight_widths(c_.quant))) {
      unused("lora.alpha", lora.alpha, standard.alpha, "there are no adapters", "lora.rank");
    }
  }

  void unused_of_clipping() {
    const OptimConfig& o = c_.optim;
    if (o.clip_norm == 0.0)
      unused("optim.clip_scope", o.clip_scope, standard_.optim.clip_scope, "nothing is clipped", "optim.clip_norm");
    else if (o.clip_scope == ClipScope::kWidth && c_.lora.slots == Slots::kShared &&
             c_.model.norm_slots == Slots::kShared)
      warn("optim.clip_scope", "clips all gradients by one norm: no width has parameters of its own",
           {"lora.slots", "model.norm_slots"});
  }

  void unused_of_noise() {
    const OptimConfig& o = c_.optim;
    if (o.noise > 0.0) return;
    unused("optim.noise_scale", o.noise_scale, standard_.optim.noise_scale, "there is no noise", "optim.noise");
    unused("optim.noise_max_bits", o.noise_max_bits, standard_.optim.noise_max_bits, "there is no noise",
           "optim.noise");
  }

  void unused_of_quantizers() {
    const QuantConfig& q = c_.quant;
    const QuantConfig& q0 = standard_.quant;
    if (q.activation.range != RangeSource::kCalibrated)
      unused("quant.calibration_method", q.calibration_method, q0.calibration_method, "no range is calibrated",
             "quant.activation.range");
    if (q.calibration_method != CalibrationMethod::kPercentile)
      unused("quant.calibration_percentile", q.calibration_percentile, q0.calibration_percentile,
             "the method is not percentile", "quant.calibration_method");
    if (q.activation.range != RangeSource::kRunning && !q.weight.uses(QuantizerKind::kEma))
      unused("quant.running_momentum", q.running_momentum, q0.running_momentum, "no range is a running mean",
             "quant.activation.range");
    if (q.activation.range != RangeSource::kLearned && !q.weight.uses(QuantizerKind::kLsq) &&
        !q.weight.uses(QuantizerKind::kGroupwise))
      unused("optim.range_lr_factor", c_.optim.range_lr_factor, standard_.optim.range_lr_factor,
             "no quantizer trains its ranges", "quant.weight.method");
    if (!q.weight.uses(QuantizerKind::kGroupwise))
      unused("quant.weight.group_size", q.weight.group_size, q0.weight.group_size, "the method is not groupwise",
             "quant.weight.method");
  }

  void unused_of_task() {
    const Gpt2Config &m = c_.model, &m0 = standard_.model;
    const DataConfig &d = c_.data, &d0 = standard_.data;
    const EvalConfig &e = c_.eval, &e0 = standard_.eval;
    if (m.answers_questions()) {
      const std::string no_head = "a model that answers questions has no output projection";
      const std::string no_text = "questions are evaluated whole, by windows of data.window_advance";
      unused("model.tie_lm_head", m.tie_lm_head, m0.tie_lm_head, no_head, "model.task");
      unused("eval.max_tokens", e.max_tokens, e0.max_tokens, no_text, "model.task");
      unused("eval.stride", e.stride, e0.stride, no_text, "model.task");
      return;
    }
    for (const auto& [path, differs] : {std::pair{"model.head_dropout", m.head_dropout != m0.head_dropout},
                                        {"data.window_advance", d.window_advance != d0.window_advance},
                                        {"data.question_tokens", d.question_tokens != d0.question_tokens},
                                        {"eval.n_best", e.n_best != e0.n_best},
                                        {"eval.max_answer_tokens", e.max_answer_tokens != e0.max_answer_tokens},
                                        {"eval.null_threshold", e.null_threshold != e0.null_threshold},
                                        {"eval.predictions", e.predictions != e0.predictions}})
      unused(path, differs, false, "a language model is asked no questions", "model.task");
  }

  void unused_of_lr() {
    const LrScheduleConfig& lr = c_.lr;
    if (lr.decay != LrDecay::kPiecewise)
      unused("lr.milestones", !lr.milestones.empty(), false, "only the piecewise rate has milestones", "lr.decay");
    else
      unused("lr.min_ratio", lr.min_ratio, standard_.lr.min_ratio, "milestones say what the last step's rate is",
             "lr.decay");
  }

  void unused_of_schedule() {
    const PrecisionScheduleConfig& p = c_.precision;
    const PrecisionScheduleConfig& p0 = standard_.precision;
    if (!has_phases(p.kind))
      unused("precision.phase", p.phase, p0.phase, "only cosine, linear, exponential and rex have phases",
             "precision.kind");
    if ((p.kind != ScheduleKind::kExponential && p.kind != ScheduleKind::kRex) || p.phase == CyclePhase::kRise)
      unused("precision.reflection", p.reflection, p0.reflection,
             "only exponential and rex have two ways down, and none where they rise", "precision.phase");
    if (p.kind != ScheduleKind::kList) {
      unused("precision.list", p.list, p0.list, "only the list schedule reads it", "precision.kind");
      unused("precision.cycle_drop", p.cycle_drop, p0.cycle_drop, "only the list schedule reads it", "precision.kind");
    }
    if (p.kind == ScheduleKind::kList) {
      unused("precision.min_bits", p.min_bits, p0.min_bits, "a list names its widths itself", "precision.kind");
      unused("precision.max_bits", p.max_bits, p0.max_bits, "a list names its widths itself", "precision.kind");
    }
    if (p.kind == ScheduleKind::kConstant) {
      unused("precision.min_bits", p.min_bits, p0.min_bits, "a constant schedule stays at max_bits", "precision.kind");
      unused("precision.cycles", p.cycles, p0.cycles, "a constant schedule has no cycles", "precision.kind");
      unused("precision.layer_offset", p.layer_offset, p0.layer_offset, "a constant schedule is the same everywhere",
             "precision.kind");
    }
    if (is_switching(p.kind)) {
      for (const auto& [path, differs] : {std::pair{"precision.min_bits", p.min_bits != p0.min_bits},
                                          {"precision.max_bits", p.max_bits != p0.max_bits},
                                          {"precision.cycles", p.cycles != p0.cycles}})
        unused(path, differs, false, "a schedule that switches visits all of its widths or maps", "precision.kind");
    }
    if (!is_switching(p.kind) || p.kind == ScheduleKind::kProgressive)
      unused("precision.switch_interval", p.switch_interval, p0.switch_interval,
             "only cyclic, random and scheduled ones hold their choices so long", "precision.kind");
    if (p.kind != ScheduleKind::kRandom)
      unused("precision.switch_probability", p.switch_probability, p0.switch_probability,
             "only the random schedule draws", "precision.kind");
    if (p.kind != ScheduleKind::kScheduled)
      unused("precision.pattern", p.pattern, p0.pattern, "only the scheduled one reads it", "precision.kind");
    if (p.static_after == 0)
      unused("precision.static_at", p.static_at, p0.static_at, "the schedule goes on to the end of the run",
             "precision.static_after");
    if (!has_phases(p.kind) || p.phase != CyclePhase::kFall)
      unused("precision.warmup_steps", p.warmup_steps, p0.warmup_steps, "only the falling phase warms up",
             "precision.phase");
  }

  void doubtful_schedule() {
    const PrecisionScheduleConfig& p = c_.precision;
    constexpr int kWideRange = 12;  // bits
    if (is_curve(p.kind) && !waits_for_range_test(p) && p.max_bits - p.min_bits > kWideRange)
      warn("precision.max_bits", fmt::format("is more than {} bits above precision.min_bits", kWideRange),
           {"precision.min_bits"});
    // Cycles of rising and falling curves are whole numbers of steps; the others stretch to the run's end.
    const std::int64_t phase = p.static_after > 0 ? std::min(p.static_after, c_.train.steps) : c_.train.steps;
    const std::int64_t cycled = phase - (p.phase == CyclePhase::kFall ? p.warmup_steps : 0);
    if (has_phases(p.kind) && (p.phase == CyclePhase::kRise || p.phase == CyclePhase::kFall) &&
        p.unit == ScheduleUnit::kStep && cycled > 0 && cycled % p.cycles != 0)
      warn("precision.cycles", "does not divide the steps: the run ends inside a cycle",
           p.static_after > 0 ? std::vector<std::string>{"precision.static_after"}
                              : std::vector<std::string>{"train.steps"});
  }

  // Of widths that no map has, but for those that are evaluated.
  void doubtful_slots() {
    if (c_.quant.maps.empty() || (c_.lora.slots == Slots::kShared && c_.model.norm_slots == Slots::kShared)) return;
    std::set<int> used = {BitWidth::kFull};
    for (const std::string& map : c_.quant.maps) {
      try {
        for (const int bits : weight_widths(parse_bitmap(map))) used.insert(bits);
      } catch (const Error&) {
        return;  // an error of its own
      }
    }
    std::vector<int> idle;
    for (const int bits : c_.quant.widths)
      if (!used.contains(bits)) idle.push_back(bits);
    if (!idle.empty())
      warn("quant.widths",
           fmt::format("have adapters or layer norms of their own at {} bits, which no map trains",
                       fmt::join(idle, ", ")),
           {"quant.maps"});
  }

  void doubtful() {
    doubtful_slots();
    if (c_.model.freeze_base && c_.model.init == ModelInit::kRandom)
      warn("model.freeze_base", "freezes random weights: only adapters and layer norms will learn", {"model.init"});
    if (c_.model.freeze_base && !has_adapters(c_.lora, quantized_weight_widths(c_.quant)))
      warn("model.freeze_base", "leaves only the layer norms to train, since there are no adapters", {"lora.rank"});
    if (c_.lora.rank > c_.model.n_embd && c_.lora.rank_rule == RankRule::kFixed)
      warn("lora.rank", "exceeds model.n_embd: the adapters have more values than what they adapt", {"model.n_embd"});
    if (c_.train.recipe == Recipe::kCpt) doubtful_schedule();
    if (c_.lr.peak > 1.0)
      warn("lr.peak", "moves every parameter by more than 1 in one step: training will hardly survive it");
    if (c_.lr.peak * c_.optim.weight_decay >= 1.0)
      warn("optim.weight_decay", "times lr.peak is 1 or more: a step's decay takes away more than there is",
           {"lr.peak"});
    if (c_.optim.clip_norm > 0.0 && c_.optim.clip_norm <= c_.optim.eps)
      warn("optim.clip_norm", "is not above optim.eps: clipped gradients vanish beside it, and so do the steps",
           {"optim.eps"});
    constexpr double kShortLimit = 30.0;  // seconds
    if (c_.watchdog.limit_seconds > 0.0 && c_.watchdog.limit_seconds < kShortLimit)
      warn("watchdog.limit_seconds",
           fmt::format("is below {} s: a long step, a slow save or a busy machine ends the run", kShortLimit));
    if (c_.lr.warmup_steps > c_.train.steps / 2)
      warn("lr.warmup_steps",
           c_.lr.warmup_steps == c_.train.steps
               ? "is the whole run: the learning rate rises to its peak and never falls"
               : "is more than half of the run",
           {"train.steps"});
    const QuantizerConfig& activation = c_.quant.activation;
    if (activation.granularity == Granularity::kTensor && activation.range == RangeSource::kDynamic)
      warn("quant.activation.granularity",
           "takes one scale from all tokens of a pass: what a token becomes depends on later tokens and on the other "
           "sequences (eval.batch_size, train.micro_batch_size); \"token\" or calibrated ranges do not",
           {"quant.activation.range"});
  }

  const RunConfig& c_;
  const RunConfig standard_;
  std::vector<Finding> found_;
};

}  // namespace

std::vector<Finding> find_warnings(const RunConfig& config) { return Warner(config).run(); }

}  // namespace qat

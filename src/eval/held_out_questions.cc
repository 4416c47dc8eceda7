#include "src/eval/held_out_questions.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/common/error.h"
#include "src/eval/answer_score.h"
#include "src/eval/best_span.h"
#include "src/model/stage_transfers.h"

namespace qat {
namespace {

// What a pass finds of a window, as numbers.
struct WindowResult {
  double nll = 0.0;
  double no_answer = 0.0;           // score of place 0
  double best = 0.0;                // of an answer
  double start = -1.0, end = -1.0;  // its places; -1: there is none
};
constexpr std::size_t kWindowNumbers = 5;

std::vector<EvaluationPass> plan_passes(std::size_t windows, std::int64_t batch_size) {
  const auto most = static_cast<std::size_t>(batch_size);
  std::vector<EvaluationPass> passes;
  for (std::size_t first = 0; first < windows; first += most)
    passes.push_back({first, std::min(most, windows - first)});
  return passes;
}

// The windows of a pass as tensors, cut to the longest of them.
struct PassInputs {
  at::Tensor tokens;   // int64 [B, T]
  at::Tensor targets;  // int64 [B, 4]
};
PassInputs read_pass(const QuestionWindows& windows, const EvaluationPass& pass) {
  const auto rows = static_cast<std::int64_t>(pass.count), full = windows.layout().sequence_length;
  PassInputs inputs{at::empty({rows, full}, at::kInt), at::empty({rows, kSpanTargetNumbers}, at::kInt)};
  std::int64_t longest = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const auto& window = windows.windows()[pass.first + static_cast<std::size_t>(row)];
    windows.fill(window, {inputs.tokens.mutable_data_ptr<std::int32_t>() + row * full, static_cast<std::size_t>(full)});
    const SpanTarget target = windows.target(window);
    std::ranges::copy(std::array{target.start, target.end, target.context_begin, target.context_end},
                      inputs.targets.mutable_data_ptr<std::int32_t>() + row * kSpanTargetNumbers);
    longest = std::max(longest, windows.length(window));
  }
  inputs.tokens = inputs.tokens.narrow(1, 0, longest);
  return inputs;
}

void score_pass(const EvaluationJob& job, const QuestionWindows& windows, const EvaluationPass& pass,
                const SpanSearch& search, const ForwardContext& context, std::span<double> numbers) {
  const PassInputs inputs = read_pass(windows, pass);
  const at::Device device = job.model.mode().device;
  const at::NoGradGuard no_grad;
  const at::Tensor hidden =
      hidden_over_stages(job.model, job.grid, inputs.tokens.to(device, at::kLong).contiguous(), context);
  if (!hidden.defined()) return;  // the last stage has the answers
  const at::Tensor on_device = job.model.answer_logits(hidden);
  const at::Tensor nll = span_nll(on_device, inputs.targets.to(device, at::kLong)).to(at::kCPU).contiguous();
  const at::Tensor logits = on_device.to(at::kCPU).contiguous();
  const auto places = static_cast<std::size_t>(logits.size(2));
  for (std::size_t row = 0; row < pass.count; ++row) {
    const std::span start(logits.const_data_ptr<float>() + 2 * row * places, places);
    const std::span end(start.data() + places, places);
    const SpanTarget target = windows.target(windows.windows()[pass.first + row]);
    WindowResult found{.nll = static_cast<double>(nll.const_data_ptr<float>()[row]),
                       .no_answer = static_cast<double>(start[0]) + static_cast<double>(end[0])};
    if (const auto best = best_span(start, end, target.context_begin, target.context_end, search)) {
      found.best = best->score;
      found.start = static_cast<double>(best->start), found.end = static_cast<double>(best->end);
    }
    std::ranges::copy(std::array{found.nll, found.no_answer, found.best, found.start, found.end},
                      numbers.begin() + static_cast<std::ptrdiff_t>(row * kWindowNumbers));
  }
}

// One question's windows, best answer first found wins.
class QuestionAnswer {
 public:
  void add(std::size_t window, const WindowResult& result) {
    no_answer_ = std::min(no_answer_, result.no_answer);
    if (result.start < 0 || (found_ && result.best <= best_.best)) return;
    found_ = true, window_ = window, best_ = result;
  }
  std::string text(const QuestionWindows& windows, double null_threshold) const {
    const SquadData& data = windows.data();
    if (!found_ || (data.may_be_unanswerable && no_answer_ - best_.best > null_threshold)) return "";
    const QuestionWindows::Window& window = windows.windows()[window_];
    const ByteRange range =
        windows.bytes(window, static_cast<std::int64_t>(best_.start), static_cast<std::int64_t>(best_.end));
    return std::string(data.answer(data.questions[static_cast<std::size_t>(window.question)], range));
  }

 private:
  bool found_ = false;
  std::size_t window_ = 0;
  WindowResult best_;
  double no_answer_ = std::numeric_limits<double>::infinity();
};

}  // namespace

std::optional<HeldOutScore> HeldOutQuestions::score(const EvaluationJob& job, const EvalConfig& config,
                                                    std::int64_t sequence_length) const {
  QAT_CHECK(sequence_length == windows_.layout().sequence_length, "windows are made for the run's sequences");
  const SpanSearch search{.n_best = config.n_best, .max_tokens = config.max_answer_tokens};
  const auto& windows = windows_.windows();
  const std::vector<EvaluationPass> passes = plan_passes(windows.size(), config.batch_size);
  const std::size_t numbers = kWindowNumbers * static_cast<std::size_t>(config.batch_size);
  const auto all = run_dealt_passes(job, passes.size(), numbers, "held-out questions",
                                    [&](std::size_t pass, const ForwardContext& context, std::span<double> out) {
                                      score_pass(job, windows_, passes[pass], search, context, out);
                                    });
  if (!all) return std::nullopt;
  const SquadData& data = windows_.data();
  std::vector<QuestionAnswer> answers(data.questions.size());
  HeldOutScore score{.tokens = std::ssize(windows), .answers = AnswerScore{}};
  // Passes are full but for the last one: window i's numbers are the i-th.
  for (std::size_t i = 0; i < windows.size(); ++i) {
    const double* n = all->data() + i * kWindowNumbers;
    score.nll_sum += n[0];
    answers[static_cast<std::size_t>(windows[i].question)].add(
        i, {.nll = n[0], .no_answer = n[1], .best = n[2], .start = n[3], .end = n[4]});
  }
  for (std::size_t q = 0; q < answers.size(); ++q) {
    const SquadQuestion& question = data.questions[q];
    std::vector<std::string_view> right;
    for (const ByteRange& range : question.answers) right.push_back(data.answer(question, range));
    score.answers->answers.push_back(answers[q].text(windows_, config.null_threshold));
    const AnswerMatch match = match_answer(score.answers->answers.back(), right);
    score.answers->exact_match += match.exact, score.answers->f1 += match.f1;
  }
  const double percent = 100.0 / static_cast<double>(answers.size());
  score.answers->exact_match *= percent, score.answers->f1 *= percent;
  return score;
}

std::vector<Value::Member> HeldOutQuestions::settings(const EvalConfig& config) const {
  return {{"eval.n_best", config.n_best},
          {"eval.max_answer_tokens", config.max_answer_tokens},
          {"eval.null_threshold", config.null_threshold},
          {"eval.predictions", config.predictions},
          {"data.window_advance", windows_.layout().window_advance},
          {"data.question_tokens", windows_.layout().question_tokens}};
}

std::string HeldOutQuestions::predictions(const HeldOutScore& score) const {
  const std::vector<SquadQuestion>& questions = windows_.data().questions;
  std::vector<Value::Member> members;
  for (std::size_t i = 0; i < questions.size(); ++i) members.push_back({questions[i].id, score.answers->answers[i]});
  return to_json(Value::object(std::move(members)), 2) + "\n";
}

}  // namespace qat

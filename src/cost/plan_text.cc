#include <fmt/format.h>

#include "src/cost/run_plan.h"
#include "src/cost/stage_report.h"
#include "src/report/numbers.h"
#include "src/report/table.h"

namespace qat {
namespace {

std::string line(const std::string& name, const std::string& text) { return fmt::format("{:<13}{}\n", name, text); }

std::string count_text(std::int64_t elems) { return fmt::format("{:.1f} M", static_cast<double>(elems) * 1e-6); }

std::string seconds_text(double seconds) {
  return seconds < 1.0 ? fmt::format("{:.1f} ms", seconds * 1e3) : fmt::format("{:.2f} s", seconds);
}

std::string plural(std::int64_t n, const std::string& noun, const char* ending = "s") {
  return fmt::format("{} {}{}", n, noun, n == 1 ? "" : ending);
}

std::string ranks_text(const RunPlan& plan) {
  const RankPlace& place = plan.machine.place;
  const int stages = static_cast<int>(std::ssize(plan.stages));
  std::string text = plural(place.ranks, "rank");
  if (place.nodes > 1) text += fmt::format(", {} on each of {} nodes", place.ranks_here(), place.nodes);
  text += stages == 1 ? fmt::format(": {}", plural(plan.replicas, "replica"))
                      : fmt::format(": {} of {} stages (rank r has stage r mod {})", plural(plan.replicas, "replica"),
                                    stages, stages);
  text += fmt::format("; {} a step each", plural(plan.micro_batches, "micro-batch", "es"));
  if (!place.cuda) text += "; " + plural(place.threads, "thread") + " a rank";
  return text;
}

std::string stage_table(const RunPlan& plan) {
  Table table(std::vector<std::string>{"stage", "holds", "parameters", "trained", "of the time", "memory of a rank"});
  for (std::size_t i = 0; i < plan.stages.size(); ++i) {
    const PlannedStage& stage = plan.stages[i];
    table.add_row({{"stage", std::to_string(i)},
                   {"holds", stage_contents(stage.part)},
                   {"parameters", count_text(stage.parameters.trained + stage.parameters.frozen)},
                   {"trained", count_text(stage.parameters.trained)},
                   {"of the time", fmt::format("{:.1f} %", stage.time_share * 100.0)},
                   {"memory of a rank", byte_size(stage.memory.total())}});
  }
  return table.ascii();
}

std::string width_table(const RunPlan& plan) {
  Table table(std::vector<std::string>{"width", "passes a step", "a micro-batch", "own parameters", "of them on a rank",
                                       "their moments", "weights for products"});
  for (const PlannedWidth& width : plan.widths)
    table.add_row({{"width", std::to_string(width.bits)},
                   {"passes a step", width.pass_s > 0.0 ? fixed(width.passes, 3) : ""},
                   {"a micro-batch", width.pass_s > 0.0 ? seconds_text(width.pass_s) : ""},
                   {"own parameters", width.own_bytes > 0 ? byte_size(width.own_bytes) : ""},
                   {"of them on a rank", width.own_bytes > 0 ? byte_size(width.kept_bytes) : ""},
                   {"their moments", width.own_bytes > 0 ? byte_size(width.moments_bytes) : ""},
                   {"weights for products", byte_size(width.prepared_bytes)}});
  return table.ascii();
}

std::string memory_text(const RunPlan& plan) {
  const PlannedStage& worst = plan.worst();
  const bool cuda = plan.machine.place.cuda;
  std::string text = fmt::format("{} of the rank that needs most, in {}: {}\n", cuda ? "GPU memory" : "memory",
                                 worst.memory.moment, byte_size(worst.memory.total()));
  for (const MemoryConsumer& one : worst.memory.consumers)
    text += fmt::format("  {:<44}{:>12}\n", one.name, byte_size(one.bytes));
  if (cuda)
    text += line("main memory", fmt::format("{} a rank, {} a node", byte_size(plan.host_memory.total()),
                                            byte_size(plan.host_memory.total() * plan.machine.place.ranks_here())));
  return text;
}

std::string step_text(const RunPlan& plan) {
  const StepTime& step = plan.step;
  std::string text = fmt::format("{}: passes {}", seconds_text(step.total()), seconds_text(step.passes_s));
  if (plan.stages.size() > 1) text += fmt::format(" (of which stages wait {:.1f} %)", step.idle_share * 100.0);
  text += fmt::format(", optimizer {}", seconds_text(step.update_s));
  if (step.exchange_s > 0.0)
    text += fmt::format(", exchange {}, gradients as {}", seconds_text(step.exchange_s), enum_name(plan.wire));
  if (step.hidden_s > 0.0) text += fmt::format(" (and {} behind backward)", seconds_text(step.hidden_s));
  return text + fmt::format("; {} tokens/s", short_count(plan.tokens_per_s));
}

std::string run_text(const RunPlan& plan, const RunConfig& config) {
  std::string text = fmt::format("{} steps of {} x {} tokens: {} tokens", config.train.steps, config.train.batch_size,
                                 config.data.sequence_length, short_count(plan.tokens));
  if (plan.epochs) text += fmt::format(" ({} times data.train)", fixed(*plan.epochs, 2));
  text += fmt::format("; {} of training", duration(plan.training_s));
  if (plan.evaluation_s)
    text += fmt::format(" and {} of {}", duration(*plan.evaluation_s), plural(plan.evaluations, "evaluation"));
  else
    text += fmt::format(", without {}, whose text is not here", plural(plan.evaluations, "evaluation"));
  return text;
}

std::string rates_text(const RankPlace& place) {
  std::string text = fmt::format("{} ({})", place.rates.name, place.rates.source);
  const auto link = [](double bytes, double latency_s) {
    return short_count(bytes) + "B/s" + (latency_s > 0.0 ? fmt::format(" and {:.1f} us", latency_s * 1e6) : "");
  };
  const Links& links = place.links;
  if (place.ranks > 1) text += "; exchange " + link(links.node_bytes, links.node_latency_s) + " in a node";
  if (place.nodes > 1) text += ", " + link(links.network_bytes, links.network_latency_s) + " a rank between nodes";
  return text;
}

}  // namespace

std::string to_text(const RunPlan& plan, const RunConfig& config) {
  const Gpt2Config& model = config.model;
  std::string text = line(
      "model", fmt::format("GPT-2 {} layers x {} wide, vocabulary {}: {} parameters, {} of them trained", model.n_layer,
                           model.n_embd, model.vocab_size, count_text(plan.parameters.trained + plan.parameters.frozen),
                           count_text(plan.parameters.trained)));
  text += line("ranks", ranks_text(plan));
  text += line("rates", rates_text(plan.machine.place));
  text += line("schedule", plan.schedule);
  text += "\n" + stage_table(plan) + "\n" + width_table(plan) + "\n" + memory_text(plan) + "\n";
  text += line("a step", step_text(plan));
  text += line("the run", run_text(plan, config));
  text +=
      line("checkpoints", fmt::format("{} each, at most {} at once: {}", byte_size(plan.checkpoint_bytes),
                                      plan.checkpoints_kept, byte_size(plan.checkpoint_bytes * plan.checkpoints_kept)));
  if (plan.available == kNoLimit) {
    text += line("fits", "not known: how much memory there is was not said (--memory)");
  } else if (plan.fits()) {
    text += line("fits",
                 fmt::format("yes: {} of the {} that a rank has{}", byte_size(plan.worst().memory.total()),
                             byte_size(plan.available),
                             plan.worst().memory.total() > plan.available / 10 * 9 ? ", with little to spare" : ""));
  } else {
    text += line("fits", fmt::format("NO: a rank needs {} and has {}", byte_size(plan.worst().memory.total()),
                                     byte_size(plan.available)));
    text += describe(plan.changes) + "\n";
  }
  return text;
}

}  // namespace qat

// One configuration under its own schedule and under static ones: run one after the other, then a table.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>
#include <optional>

#include "launch/child_run.h"
#include "launch/command.h"
#include "launch/command_line.h"
#include "launch/earlier_run.h"
#include "launch/number_checks.h"
#include "launch/signals.h"
#include "launch/terminal.h"
#include "src/base/file.h"
#include "src/config/loader.h"
#include "src/report/run_comparison.h"
#include "src/schedule/precision_schedule.h"
#include "src/schedule/range_test.h"
#include "src/schedule/schedule_rules.h"

namespace qat::launch {
namespace {

namespace fs = std::filesystem;

struct CompareArguments {
  std::string config, launcher;
  std::vector<std::string> sets;
  std::vector<std::string> kinds;  // more schedules
  int seeds = 1;

  std::optional<fs::path> file() const { return config.empty() ? std::nullopt : std::optional<fs::path>(config); }
};

void check_comparable(const RunConfig& config) {
  if (config.train.recipe != Recipe::kCpt)
    throw Error(ErrorKind::kConfig,
                fmt::format("train.recipe = \"{}\": compare is about precision schedules, which recipe cpt follows",
                            enum_name(config.train.recipe)));
  if (!config.quant.maps.empty())
    throw Error(ErrorKind::kConfig,
                "quant.maps has maps: compare sets a schedule of widths beside static widths; leave quant.maps out");
  if (config.precision.kind == ScheduleKind::kConstant)
    throw Error(ErrorKind::kConfig,
                "precision.kind = \"constant\": there is no schedule to compare with static widths; set another kind");
}

// The settings of the same run under another schedule; the keys that this one has no use for are at their defaults.
std::vector<std::string> under(ScheduleKind kind) {
  std::vector<std::string> sets = {fmt::format("precision.kind={}", enum_name(kind))};
  if (!has_phases(kind)) sets.insert(sets.end(), {"precision.phase=rise", "precision.reflection=horizontal"});
  if (kind != ScheduleKind::kList) sets.emplace_back("precision.cycle_drop=0");
  return sets;
}

// Before the first run: what one of the schedules lacks.
void check_kinds(const CompareArguments& arguments, const RunConfig& config) {
  for (std::size_t i = 0; i < arguments.kinds.size(); ++i) {
    const ScheduleKind kind = *enum_value<ScheduleKind>(arguments.kinds[i]);
    const auto before = arguments.kinds.begin() + static_cast<std::ptrdiff_t>(i);
    if (kind == config.precision.kind || std::find(arguments.kinds.begin(), before, *before) != before)
      throw Error(ErrorKind::kConfig, fmt::format("--kinds names \"{}\", which is compared already", *before));
    if (kind == ScheduleKind::kConstant)
      throw Error(ErrorKind::kConfig, "--kinds names \"constant\": static widths are compared anyway");
    std::vector<std::string> sets = arguments.sets;
    for (std::string& set : under(kind)) sets.push_back(std::move(set));
    try {
      (void)load_run_config(arguments.file(), sets);
    } catch (const Error& error) {
      throw Error(error.kind(), fmt::format("--kinds {}: {}", *before, error.what()));
    }
  }
}

// The lowest and the highest quantized width that the schedule has visited.
struct Bounds {
  int low = 0, high = 0;
  std::vector<std::string> measured;  // settings in place of "auto"
};

Bounds bounds_of(const RunConfig& config, const fs::path& scheduled) {
  PrecisionScheduleConfig schedule = config.precision;
  std::vector<std::string> measured;
  if (waits_for_range_test(schedule)) {
    const fs::path file = scheduled / "range_test.json";
    const RangeTestResult found = range_test_from_json(read_file(file, ErrorKind::kConfig), file.string());
    if (schedule.min_bits == kAutoBits)
      measured.push_back(fmt::format("precision.min_bits={}", schedule.min_bits = found.min_bits));
    if (schedule.max_bits == kAutoBits)
      measured.push_back(
          fmt::format("precision.max_bits={}", schedule.max_bits = std::max(found.max_bits, schedule.min_bits)));
  }
  schedule.static_after = 0;
  std::vector<int> widths = scheduled_widths(schedule, config.quant.widths);
  std::erase(widths, BitWidth::kFull);
  if (widths.empty())
    throw Error(ErrorKind::kConfig, "the schedule has no width below 32: there is nothing to compare");
  return {.low = widths.front(), .high = widths.back(), .measured = measured};
}

class Comparison {
 public:
  Comparison(const CompareArguments& arguments, const RunConfig& config, const std::atomic<int>& signal)
      : arguments_(arguments), config_(config), signal_(signal) {}

  int run() {
    for (int i = 0; i < arguments_.seeds; ++i)
      if (const int code = run_seed(config_.run.seed + static_cast<std::uint64_t>(i)); code != 0) return code;
    const fs::path dir = config_.run.dir;
    const Table table = comparison_table(runs_);
    std::string findings;
    for (const std::string& line : comparison_findings(runs_, bounds_.high)) findings += "- " + line + "\n";
    write_file_atomic(dir / "comparison.json", to_json(comparison_json(runs_, bounds_.high), 2) + "\n");
    write_file_atomic(dir / "comparison.md", "# Precision schedules compared\n\n" + table.markdown() + "\n" + findings);
    print(fmt::format("{}{}results: {}\n", table.ascii(), findings, (dir / "comparison.md").string()));
    return 0;
  }

 private:
  using Sets = std::vector<std::string>;

  int run_seed(std::uint64_t seed) {
    const std::string scheduled = fmt::format("scheduled, {}", enum_name(config_.precision.kind));
    const fs::path own = folder("scheduled", seed);
    if (const int code = train(scheduled, own, seed, {}, false); code != 0) return code;
    bounds_ = bounds_of(config_, own);
    const double spent = runs_.back().bitops;
    const auto at = [&](int bits) {
      return train(fmt::format("static {} bits", bits), folder(fmt::format("static_{}", bits), seed), seed,
                   static_at(bits), true);
    };
    if (const int code = at(bounds_.high); code != 0) return code;
    if (const int code = train_at_equal_cost(seed, spent, runs_.back()); code != 0) return code;
    if (bounds_.low != bounds_.high)
      if (const int code = at(bounds_.low); code != 0) return code;
    for (const std::string& kind : arguments_.kinds) {
      Sets sets = under(*enum_value<ScheduleKind>(kind));
      sets.insert(sets.end(), bounds_.measured.begin(), bounds_.measured.end());
      if (const int code = train("scheduled, " + kind, folder("scheduled_" + kind, seed), seed, sets, false); code != 0)
        return code;
    }
    return 0;
  }

  // The highest width for as many steps as cost what the schedule did.
  int train_at_equal_cost(std::uint64_t seed, double spent, const ComparedRun& full) {
    const auto total = static_cast<double>(config_.train.steps);
    const std::int64_t steps = std::lround(total * spent / full.bitops);
    if (steps < 1 || steps >= config_.train.steps) return 0;
    const auto scaled = [&](std::int64_t step) {
      return static_cast<std::int64_t>(std::floor(static_cast<double>(step) * static_cast<double>(steps) / total));
    };
    Sets sets = static_at(bounds_.high);
    sets.push_back(fmt::format("train.steps={}", steps));
    sets.push_back(fmt::format("lr.warmup_steps={}", scaled(config_.lr.warmup_steps)));
    if (config_.lr.decay == LrDecay::kPiecewise) {
      std::vector<std::string> milestones;
      for (const LrMilestone& one : config_.lr.milestones)
        milestones.push_back(fmt::format(R"({{"step":{},"factor":{}}})", scaled(one.step), one.factor));
      sets.push_back(fmt::format("lr.milestones=[{}]", fmt::join(milestones, ",")));
    }
    return train(fmt::format("static {} bits, equal BitOps", bounds_.high),
                 folder(fmt::format("static_{}_equal_bitops", bounds_.high), seed), seed, sets, true);
  }

  static Sets static_at(int bits) {
    return {"precision.kind=constant",
            fmt::format("precision.max_bits={}", bits),
            "precision.min_bits=3",
            "precision.layer_offset=0",
            "precision.static_after=0",
            "precision.phase=rise",
            "precision.reflection=horizontal",
            "precision.cycle_drop=0"};
  }

  fs::path folder(const std::string& name, std::uint64_t seed) const {
    return fs::path(config_.run.dir) / (arguments_.seeds == 1 ? name : fmt::format("{}_seed{}", name, seed));
  }

  int train(const std::string& name, const fs::path& dir, std::uint64_t seed, const Sets& own, bool is_static) {
    Sets sets = arguments_.sets;
    sets.insert(sets.end(), own.begin(), own.end());
    sets.push_back("run.dir=" + dir.string());
    sets.push_back(fmt::format("run.seed={}", seed));
    require_same_configuration(dir, arguments_.file(), sets, fmt::format("the run \"{}\"", name), "run.dir");
    std::vector<std::string> words;
    if (!arguments_.config.empty()) words = {"--config", arguments_.config};
    for (const std::string& set : sets) words.insert(words.end(), {"--set", set});
    const std::vector<std::string> command = this_program(arguments_.launcher, words);
    print(fmt::format("\n== {}, seed {}\n{}\n", name, seed, shell_line(command)));
    if (const int code = run_to_end(command, signal_); code != 0) {
      warn(fmt::format("the run \"{}\" ended with exit code {}; the same command goes on from there", name, code));
      return code;
    }
    runs_.push_back(read_run(name, seed, dir, is_static));
    return 0;
  }

  const CompareArguments& arguments_;
  const RunConfig& config_;
  const std::atomic<int>& signal_;
  std::vector<ComparedRun> runs_;
  Bounds bounds_;
};

}  // namespace

Run add_compare(CLI::App& app) {
  auto arguments = std::make_shared<CompareArguments>();
  app.add_option("-c,--config", arguments->config, "JSON configuration of the run with a schedule");
  app.add_option("--set", arguments->sets, "override: section.key=value, as often as needed")->take_all();
  app.add_option("--launcher", arguments->launcher,
                 "what starts a run's ranks, in front of this program: \"mpirun -np 4\"; empty: one rank");
  app.add_option("--kinds", arguments->kinds,
                 "more schedules (precision.kind) of the same run, e.g. random,progressive")
      ->delimiter(',')
      ->check(CLI::IsMember(enum_names<ScheduleKind>()));
  app.add_option("--seeds", arguments->seeds, "so many runs of each, with run.seed and the seeds after it")
      ->check(between(1, 100));
  return [arguments](Invocation) {
    const std::atomic<int>& signal = watch_signals();
    const RunConfig config = load_run_config(arguments->file(), arguments->sets).config;
    check_comparable(config);
    check_kinds(*arguments, config);
    create_directories_checked(config.run.dir, "run.dir");
    return Comparison(*arguments, config, signal).run();
  };
}

}  // namespace qat::launch

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "launch/child_run.h"
#include "launch/command.h"
#include "launch/command_line.h"
#include "launch/earlier_run.h"
#include "launch/signals.h"
#include "launch/sweep_results.h"
#include "launch/terminal.h"
#include "launch/world.h"
#include "src/base/file.h"
#include "src/base/run_lock.h"
#include "src/config/sweep_file.h"

namespace qat::launch {
namespace {

struct SweepArguments {
  std::string file, launcher, slurm, format = "text";
  std::vector<std::string> sets;
  bool table_only = false, dry_run = false;
};

std::vector<std::string> command_of(const SweepPlan& sweep, const SweepRun& run, const std::string& launcher = {}) {
  std::vector<std::string> arguments;
  if (!sweep.config.empty()) arguments.insert(arguments.end(), {"--config", sweep.config.string()});
  for (const std::string& set : run.sets) arguments.insert(arguments.end(), {"--set", set});
  return this_program(launcher, arguments);
}

// One array job: task i is run i.
std::string array_job(const SweepPlan& sweep, const std::filesystem::path& script) {
  std::string text = fmt::format(
      "#!/usr/bin/env bash\n"
      "#SBATCH --job-name=qat_sweep\n#SBATCH --array=0-{}\n#SBATCH --requeue\n#SBATCH --open-mode=append\n"
      "#SBATCH --signal=B:USR1@120\n#SBATCH --output={}/slurm-%A_%a.out\n"
      "# Written by `qat_dist sweep --slurm`. Task i trains run i and goes on after pre-emptions; submit it again for\n"
      "# what is missing. How many nodes and ranks: sbatch --nodes=1 --ntasks-per-node=4 ... (--array=0-9%2 runs two "
      "at a time).\n"
      "cd {} || exit 2\n"
      "case $SLURM_ARRAY_TASK_ID in\n",
      sweep.runs.size() - 1, std::filesystem::absolute(sweep.runs_dir).string(),
      shell_line({std::filesystem::current_path().string()}));
  for (std::size_t i = 0; i < sweep.runs.size(); ++i) {
    std::vector<std::string> line = {script.string(), std::filesystem::absolute(sweep.runs[i].dir).string()};
    const std::vector<std::string> program = command_of(sweep, sweep.runs[i]);
    line.insert(line.end(), program.begin(), program.end());
    text += fmt::format("  {}) exec {} ;;\n", i, shell_line(line));
  }
  return text + "esac\n";
}

void write_array_job(const SweepPlan& sweep, const std::string& script) {
  const std::filesystem::path path = std::filesystem::absolute(script);
  if (::access(path.c_str(), X_OK) != 0)
    throw Error(ErrorKind::kConfig,
                fmt::format("--slurm {}: no such script; expected launch/slurm/train.sbatch of this "
                            "program's sources",
                            script));
  const std::filesystem::path job = sweep.runs_dir / "sweep.sbatch";
  write_file_atomic(job, array_job(sweep, path));
  print(
      fmt::format("array job of {} runs: {}\nsubmit     sbatch --nodes=1 --ntasks-per-node=1 {}\n"
                  "table      qat_dist sweep FILE --table\n",
                  sweep.runs.size(), job.string(), job.string()));
}

// The table on the console in the format asked for, and in all of them below runs_dir.
void show(const SweepPlan& sweep, const std::string& format) {
  const std::vector<SweepResult> results = sweep_results(sweep);
  const Table table = sweep_table(sweep, results);
  const std::string json = to_json(sweep_value(sweep, results), 2) + "\n";
  write_file_atomic(sweep.runs_dir / "sweep.md", table.markdown());
  write_file_atomic(sweep.runs_dir / "sweep.json", json);
  print(format == "json" ? json : format == "markdown" ? table.markdown() : table.ascii());
}

// Runs what is missing, one after the other. What another sweep, or a job, is running at this moment is left to it.
class MissingRuns {
 public:
  MissingRuns(const SweepPlan& sweep, const std::string& launcher) : sweep_(sweep), launcher_(launcher) {}

  // The exit code: of the first run that failed; 75 if runs are left to others; 0.
  int run() {
    const std::atomic<int>& signal = watch_signals();
    for (std::size_t i = 0; i < sweep_.runs.size(); ++i) {
      run_one(i, signal);
      if (signal.load() == 0) continue;
      print(fmt::format("stopped by {} in run {}; start the same command again to go on\n", signal_name(signal.load()),
                        sweep_.runs[i].name));
      stopped_ = true;
      return exit_code_of_signal(signal.load());
    }
    if (elsewhere_ > 0)
      print(fmt::format("{} run{} of {} left to others; start the same command again when they have ended\n",
                        elsewhere_, elsewhere_ == 1 ? "" : "s", sweep_.runs.size()));
    return first_failure_ != 0 ? first_failure_ : elsewhere_ > 0 ? kStoppedEarly : 0;
  }
  bool stopped() const { return stopped_; }

 private:
  static constexpr int kStoppedEarly = 75;

  // Says who has it, if somebody has.
  bool is_elsewhere(const SweepRun& run, const std::string& where) {
    const auto holder = run_lock_holder(run.dir, World::job_id(), World::job_restarts());
    if (!holder) return false;
    print(fmt::format("{}: left to {}\n", where, *holder));
    ++elsewhere_;
    return true;
  }

  void run_one(std::size_t i, const std::atomic<int>& signal) {
    const SweepRun& run = sweep_.runs[i];
    const std::string where = fmt::format("run {} of {}: {}", i + 1, sweep_.runs.size(), run.name);
    if (result_of(run).state == "finished") {
      print(where + ": finished before\n");
      return;
    }
    if (is_elsewhere(run, where)) return;
    print(where + "\n");
    const int code = run_to_end(command_of(sweep_, run, launcher_), signal);
    if (code == 0 || signal.load() != 0) return;
    if (code == static_cast<int>(ErrorKind::kConfig) && is_elsewhere(run, where)) return;  // taken in between
    warn(fmt::format("run {} ended with exit code {}: the sweep goes on with the next", run.name, code));
    if (first_failure_ == 0) first_failure_ = code;
  }

  const SweepPlan& sweep_;
  const std::string& launcher_;
  int first_failure_ = 0;
  std::int64_t elsewhere_ = 0;
  bool stopped_ = false;
};

int sweep(const SweepArguments& arguments) {
  const SweepPlan sweep = read_sweep(arguments.file, arguments.sets);
  if (arguments.dry_run) {
    for (const SweepRun& run : sweep.runs) print(shell_line(command_of(sweep, run)) + "\n");
    return 0;
  }
  // Tables would show results of one configuration as those of another.
  const auto config = sweep.config.empty() ? std::nullopt : std::optional(sweep.config);
  for (const SweepRun& run : sweep.runs)
    require_same_configuration(run.dir, config, run.sets, fmt::format("run {} of the sweep", run.name), "runs_dir");
  create_directories_checked(sweep.runs_dir, "runs_dir");
  if (!arguments.slurm.empty()) {
    write_array_job(sweep, arguments.slurm);
    return 0;
  }
  int code = 0;
  if (!arguments.table_only) {
    MissingRuns missing(sweep, arguments.launcher);
    code = missing.run();
    if (missing.stopped()) return code;
  }
  show(sweep, arguments.format);
  return code;
}

}  // namespace

Run add_sweep(CLI::App& app) {
  auto arguments = std::make_shared<SweepArguments>();
  app.add_option("file", arguments->file, "the sweep, in JSON: config, runs_dir, set (lists of values), fixed")
      ->required();
  app.add_option("--set", arguments->sets, "override in every run: section.key=value, as often as needed")->take_all();
  app.add_option("--launcher", arguments->launcher, "what starts a run's ranks: \"launch/run_local.sh -n 4\"");
  app.add_option(
      "--slurm", arguments->slurm,
      "run nothing, and write an array job whose tasks are started by this script, launch/slurm/train.sbatch");
  app.add_flag("--table", arguments->table_only, "run nothing, only show the table of what there is");
  app.add_flag("--dry-run", arguments->dry_run, "run nothing, only show the commands");
  app.add_option("--format", arguments->format, "of the table: text, json or markdown")
      ->check(CLI::IsMember({"text", "json", "markdown"}));
  app.footer(
      "Runs that have finished are not run again; one that was stopped goes on from its checkpoint. The table is also "
      "in\n"
      "runs_dir/sweep.json and runs_dir/sweep.md. Two sweeps of one runs_dir share the work. Exit code: of the first\n"
      "run that failed; 75 if runs were left to others that have them at work; 0.");
  return [arguments](Invocation) { return sweep(*arguments); };
}

}  // namespace qat::launch

#include <malloc.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <sstream>
#include <utility>
#include <vector>

#include "kernels/common/error.h"
#include "launch/command.h"
#include "launch/empty_arguments.h"
#include "launch/failure.h"
#include "launch/singletons.h"
#include "src/quant/tensor_memory.h"

namespace {

// Every pass allocates the same tensors again: keep their memory instead of giving it back to the system and faulting
// it in, page by page, a moment later.
void keep_freed_memory() {
  mallopt(M_MMAP_THRESHOLD, 1 << 28);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  qat::use_heap_for_tensors();
}

// MKL, which multiplies LibTorch's fp32 matrices on CPUs, promises the same bits from run to run only when asked to
// ("conditional numerical reproducibility"; it reads this at its first product). A value of the user's stays.
void ask_mkl_for_the_same_bits() { setenv("MKL_CBWR", "AUTO,STRICT", /*overwrite=*/0); }

int run_command(int argc, char** argv) {
  using namespace qat::launch;  // NOLINT(google-build-using-namespace): main is this namespace's only way in
  CLI::App app{"qat_dist: distributed quantization-aware training of GPT-2"};
  app.set_version_flag("--version", QAT_VERSION);
  app.require_subcommand(0, 1);
  app.footer(
      "Without a subcommand, `qat_dist --config FILE` trains.\n"
      "Exit codes: 0 finished, 2 configuration or usage, 3 data, 4 checkpoint, 5 out of memory, 6 communication,\n"
      "7 a rank hangs, 8 diverged, 9 self-check failed, 75 stopped by a signal (start again to go on), 130 "
      "interrupted.");
  std::vector<std::pair<CLI::App*, Run>> commands;
  const auto add = [&](const char* name, const char* help, Run (*make)(CLI::App&)) {
    CLI::App* sub = app.add_subcommand(name, help);
    commands.emplace_back(sub, make(*sub));
  };
  const Run train_by_default = add_train(app);
  add("train", "train a model (the default)", add_train);
  add("prt", "try training at each width, and find the bounds of a precision schedule", add_range_test);
  add("compare", "train with a precision schedule and with static widths, and set them side by side", add_compare);
  add("eval", "evaluate a checkpoint at several bit widths: texts, tasks, speed", add_evaluate);
  add("plan", "what a run would take on so many ranks: memory, time, checkpoints; starts nothing", add_plan);
  add("doctor", "look at this machine, or at all hosts of a job: versions, speed, links, limits, file system",
      add_doctor);
  add("sweep", "one configuration at every combination of some keys' values, one run after the other", add_sweep);
  add("tokenize", "turn text files into token shards", add_tokenize);
  add("import", "make a checkpoint of a GPT-2 that Hugging Face's transformers has written", add_import);
  add("export", "write a checkpoint's model for transformers, or its adapter for peft", add_export);
  add("logits", "write a checkpoint's logits of a few tokens, to compare with other programs", add_logits);
  add("generate", "let a checkpoint's model go on with prompts", add_generate);
  add("report", "report.html and report.md of a run, or of several side by side", add_report);
  add("schema", "print the JSON Schema of the configuration, or its documentation", add_schema);
  refuse_empty_arguments(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    // All ranks have the same command line: the first one says what is wrong with it, or what there is.
    std::ostringstream unsaid;
    const int code = launcher_rank() > 0 ? app.exit(error, unsaid, unsaid) : app.exit(error);
    return code == 0 ? 0 : static_cast<int>(qat::ErrorKind::kConfig);
  }
  const Invocation invocation{&argc, &argv};
  try {
    for (const auto& [sub, run] : commands)
      if (sub->parsed()) return run(invocation);
    return train_by_default(invocation);
  } catch (const std::exception& error) {
    return report_failure(error);
  }
}

}  // namespace

int main(int argc, char** argv) {
  keep_freed_memory();
  ask_mkl_for_the_same_bits();
  const int code = run_command(argc, argv);
  // Everything is closed. LibTorch would take another half second to strike its operators off their lists.
  std::cout.flush();
  std::fflush(nullptr);
  _exit(code);
}

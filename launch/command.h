// Subcommands: each adds itself to the command line, and runs if it was chosen.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>

namespace qat::launch {

// argc and argv go to MPI, which takes its own options out.
struct Invocation {
  int* argc;
  char*** argv;
};

using Run = std::function<int(Invocation)>;

// Each returns what runs the subcommand and gives its exit code. `app` owns the options' storage through the closure.
Run add_train(CLI::App& app);
Run add_range_test(CLI::App& app);
Run add_compare(CLI::App& app);
Run add_evaluate(CLI::App& app);
Run add_tokenize(CLI::App& app);
Run add_import(CLI::App& app);
Run add_export(CLI::App& app);
Run add_logits(CLI::App& app);
Run add_plan(CLI::App& app);
Run add_doctor(CLI::App& app);
Run add_sweep(CLI::App& app);
Run add_generate(CLI::App& app);
Run add_schema(CLI::App& app);
Run add_report(CLI::App& app);

}  // namespace qat::launch

// Options that are given without a text, as by "$CONFIG" in a shell that has no such variable.
#pragma once

#include <CLI/CLI.hpp>

namespace qat::launch {

// Refuses them in `app` and its subcommands, whose options are all there; only texts that may be empty (--prompt,
// --stop, --launcher) and --set, which says more, stay as they are.
void refuse_empty_arguments(CLI::App& app);

}  // namespace qat::launch

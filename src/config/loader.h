// JSON and --set overrides to a checked RunConfig. docs/configuration.md is the user's side of this.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "src/config/effective.h"
#include "src/config/run_config.h"

namespace qat {

struct LoadResult {
  RunConfig config;
  Origins origins;
  std::vector<std::string> warnings;  // for the log; a line each
};

// Defaults, then the file, then `sets` ("train.steps=100"; the value is JSON, or else text), later ones win. A preset
// fills in the sizes that neither its own source nor a later one gives.
// Throws one Error(kConfig) that lists everything that is wrong, a line each.
LoadResult load_run_config(const std::optional<std::filesystem::path>& file, std::span<const std::string> sets);

// The same from JSON text, which errors call `source`: what another rank read, or a checkpoint's configuration.
LoadResult load_run_config_text(std::string_view text, const std::string& source, std::span<const std::string> sets);

}  // namespace qat

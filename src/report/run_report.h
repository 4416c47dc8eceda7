// The report of a run, or of several side by side, from what is in their folders: Markdown, and HTML with plots.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "src/report/run_history.h"

namespace qat {

// Facts, the final table or the newest evaluations, and losses by precision.
std::string to_markdown(const RunHistory& run);
// The same with plots and the configuration.
std::string to_html(const RunHistory& run);

// Runs side by side: one table of facts and one of perplexities, with a column a run, and plots with all of them.
std::string to_markdown(std::span<const RunHistory> runs);
std::string to_html(std::span<const RunHistory> runs);

// Writes the HTML to `file` and the Markdown beside it, with .md in place of .html; each whole or not at all. Throws
// Error(kConfig).
void write_run_report(std::span<const RunHistory> runs, const std::filesystem::path& file);

}  // namespace qat

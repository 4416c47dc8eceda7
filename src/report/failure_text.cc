#include "src/report/failure_text.h"

#include <fmt/format.h>

namespace qat {
namespace {

// Further lines of a value stand below its first one.
std::string field(const std::string& name, const std::string& value) {
  std::string text = fmt::format("  {:<12}", name + ":");
  for (const char c : value) {
    text.push_back(c);
    if (c == '\n') text.append(14, ' ');
  }
  return text + "\n";
}

}  // namespace

std::string exit_code_meaning(int exit_code) {
  switch (exit_code) {
    case 0:
      return "finished";
    case 1:
      return "internal error: please report it";
    case 2:
      return "configuration or usage";
    case 3:
      return "data";
    case 4:
      return "checkpoint unreadable or mismatched";
    case 5:
      return "out of memory";
    case 6:
      return "communication failure";
    case 7:
      return "watchdog: a rank hangs";
    case 8:
      return "diverged";
    case 9:
      return "self-check failed";
    case 75:
      return "pre-empted: resume me";
    case 130:
      return "interrupted";
    default:
      return "unknown";
  }
}

std::string to_text(const FailureReport& report) {
  std::string text =
      fmt::format("qat_dist stopped (exit {}, {})\n", report.exit_code, exit_code_meaning(report.exit_code));
  text += field("what", report.what);
  const std::string process = report.pid > 0 ? fmt::format(", process {}", report.pid) : "";
  text += field("where", fmt::format("rank {} on {}{}", report.rank, report.host, process));
  if (!report.doing.empty()) text += field("doing", report.doing);
  if (!report.others.empty()) text += field("others", report.others);
  if (report.of_run) {
    text += field("last step", report.last_step ? std::to_string(*report.last_step) : "none completed");
    text += field("checkpoint", report.checkpoint.empty() ? "none" : report.checkpoint);
  }
  if (!report.next_command.empty()) text += field("next", report.next_command);
  if (!report.log_file.empty()) text += field("details", report.log_file);
  return text;
}

}  // namespace qat

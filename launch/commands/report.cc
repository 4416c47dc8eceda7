// report.html and report.md from what run folders hold, whether their runs are finished, stopped or still going.
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "launch/command.h"
#include "launch/output_file.h"
#include "launch/terminal.h"
#include "src/report/run_report.h"

namespace qat::launch {
namespace {

struct ReportArguments {
  std::vector<std::string> dirs;
  std::string out;
};

// Folders of the same name are told apart by their paths.
void tell_apart(std::vector<RunHistory>& runs) {
  std::map<std::string, int> named;
  for (const RunHistory& run : runs) ++named[run.name];
  for (RunHistory& run : runs)
    if (named[run.name] > 1) run.name = run.dir.lexically_normal().string();
}

int report(const ReportArguments& arguments) {
  std::vector<RunHistory> runs;
  for (const std::string& dir : arguments.dirs) runs.push_back(read_run(dir));
  tell_apart(runs);
  std::filesystem::path file = arguments.out;
  if (file.empty()) file = runs.size() == 1 ? runs.front().dir / "report.html" : "report.html";
  prepare_output_file(arguments.out, "--out");
  write_run_report(runs, file);
  print((runs.size() == 1 ? to_markdown(runs.front()) : to_markdown(runs)) + "\n" + file.string() + "\n");
  return 0;
}

}  // namespace

Run add_report(CLI::App& app) {
  auto arguments = std::make_shared<ReportArguments>();
  app.add_option("dirs", arguments->dirs, "run folders (run.dir)")->required();
  app.add_option("-o,--out", arguments->out,
                 "the HTML file, with the Markdown beside it; default: report.html in the run folder or, of several "
                 "runs, here");
  return [arguments](Invocation) { return report(*arguments); };
}

}  // namespace qat::launch

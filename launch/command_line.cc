#include "launch/command_line.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <string_view>

#include "src/base/file.h"

namespace qat::launch {
namespace {

std::string proc_file(std::int64_t pid, const char* name) {
  try {
    return read_file(fmt::format("/proc/{}/{}", pid, name));
  } catch (const Error&) {
    return {};  // gone, or another user's
  }
}

std::vector<std::string> arguments_of(std::int64_t pid) {
  const std::string text = proc_file(pid, "cmdline");
  std::vector<std::string> arguments;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\0', begin), text.size());
    arguments.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return arguments;
}

// 0: none.
std::int64_t parent_of(std::int64_t pid) {
  const std::string status = proc_file(pid, "status");
  const std::size_t at = status.find("\nPPid:\t");
  return at == std::string::npos ? 0 : std::atoll(status.c_str() + at + 7);
}

bool is_program(const std::string& path, std::initializer_list<std::string_view> names) {
  const std::string name = std::filesystem::path(path).filename().string();
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_launcher(const std::vector<std::string>& arguments) {
  return !arguments.empty() && is_program(arguments[0], {"mpirun", "mpiexec", "orterun", "prterun"});
}

std::string quoted(const std::string& text) {
  const auto plain = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("_-+=./,:@%").find(c) != std::string_view::npos;
  };
  if (!text.empty() && std::all_of(text.begin(), text.end(), plain)) return text;
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

}  // namespace

std::string shell_line(const std::vector<std::string>& arguments) {
  std::string line;
  for (const std::string& argument : arguments) line += (line.empty() ? "" : " ") + quoted(argument);
  return line;
}

std::string command_to_start_again(int ranks) {
  const std::vector<std::string> own = arguments_of(::getpid());
  const std::int64_t parent = ::getppid();
  const std::vector<std::string> launcher = arguments_of(parent);
  if (is_launcher(launcher)) {
    // run_local.sh, if it is there: "bash launch/run_local.sh -n 4 ...".
    const std::vector<std::string> script = arguments_of(parent_of(parent));
    for (std::size_t i = 0; i < std::min<std::size_t>(2, script.size()); ++i)
      if (is_program(script[i], {"run_local.sh"}))
        return shell_line({script.begin() + static_cast<std::ptrdiff_t>(i), script.end()});
    return shell_line(launcher);
  }
  const bool batch = std::getenv("SLURM_JOB_ID") != nullptr;  // NOLINT(concurrency-mt-unsafe): nobody sets it
  if (ranks == 1 || batch) return shell_line(own);
  return fmt::format("mpirun -np {} {}", ranks, shell_line(own));
}

}  // namespace qat::launch

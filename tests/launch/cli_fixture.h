// The program as a user starts it: commands, exit codes, messages and files. QAT_DIST and QAT_TEST_SOURCE_DIR say where
// program and repository are.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace qat::cli {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

struct Outcome {
  int exit_code;
  std::string text;  // standard output and error
};

inline std::string quote(const std::string& text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return out + "'";
}

inline Outcome shell(const std::string& command) {
  Outcome outcome{-1, {}};
  FILE* pipe = popen(("{ " + command + "; } 2>&1").c_str(), "r");
  std::array<char, 4096> buffer;
  while (const std::size_t n = fread(buffer.data(), 1, buffer.size(), pipe)) outcome.text.append(buffer.data(), n);
  const int status = pclose(pipe);
  outcome.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

// What is in a file; empty if there is none.
inline std::string content(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// Waits until `condition` holds, at most `seconds`.
inline bool wait_for(const std::function<bool()>& condition, double seconds = 60.0) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  return true;
}

inline std::size_t count(const std::string& text, const std::string& part) {
  std::size_t n = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++n;
  return n;
}

// A command that goes on by itself: to be signalled while it runs. Its process is the command's own ("exec"), in a
// session of its own; whatever is left of it is killed in the end.
class Process {
 public:
  explicit Process(const std::string& command) {
    char name[] = "/tmp/qat_process_XXXXXX";
    output_ = mkstemp(name);
    unlink(name);
    pid_ = fork();
    if (pid_ == 0) {
      setsid();
      for (const int signal : {SIGINT, SIGHUP, SIGTERM, SIGPIPE}) std::signal(signal, SIG_DFL);
      dup2(output_, STDOUT_FILENO);
      dup2(output_, STDERR_FILENO);
      execl("/bin/bash", "bash", "-c", ("exec " + command).c_str(), nullptr);
      _exit(127);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ > 0) {
      kill(-pid_, SIGKILL);
      waitpid(pid_, nullptr, 0);
    }
    close(output_);
  }

  pid_t pid() const { return pid_; }
  void signal(int number) const { kill(pid_, number); }
  bool is_running() {
    int status = 0;
    if (pid_ <= 0 || waitpid(pid_, &status, WNOHANG) == 0) return pid_ > 0;
    code_ = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    pid_ = -1;
    return false;
  }
  // What it said so far.
  std::string text() const {
    std::string text(static_cast<std::size_t>(lseek(output_, 0, SEEK_END)), '\0');
    text.resize(static_cast<std::size_t>(std::max<ssize_t>(0, pread(output_, text.data(), text.size(), 0))));
    return text;
  }
  // Waits for its end; exit code -1 if that does not come in time.
  Outcome wait(double seconds = 120.0) {
    return {wait_for([&] { return !is_running(); }, seconds) ? code_ : -1, text()};
  }

 private:
  pid_t pid_ = -1;
  int output_ = -1;
  int code_ = -1;
};

class Cli : public ::testing::Test {
 protected:
  void SetUp() override {
    source_ = std::getenv("QAT_TEST_SOURCE_DIR");
    program_ = std::getenv("QAT_DIST");
    root_ = fs::temp_directory_path() / ("qat cli ü " + std::to_string(getpid()));
    fs::remove_all(root_);
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }

  std::string program() const { return quote(program_); }
  std::string on_ranks(int ranks) const {
    return quote(source_ + "/launch/run_local.sh") + " -n " + std::to_string(ranks) + " " + program();
  }
  // The tiny configuration with its own run folder.
  std::string tiny(const std::string& dir, const std::string& more = "") const {
    return " --config " + quote(source_ + "/configs/tiny_cpu.json") +
           " --set run.dir=" + quote((root_ / dir).string()) + " " + more;
  }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(root_ / name, std::ios::binary) << text;
    return (root_ / name).string();
  }
  // The loss column of metrics.jsonl.
  std::vector<std::string> losses(const std::string& dir) const {
    std::ifstream in(root_ / dir / "metrics.jsonl");
    std::vector<std::string> out;
    for (std::string line; std::getline(in, line);) {
      const std::size_t at = line.find("\"loss\":");
      out.push_back(line.substr(at, line.find(',', at) - at));
    }
    return out;
  }

  // Steps in metrics.jsonl.
  std::size_t steps(const std::string& dir) const { return losses(dir).size(); }
  // Names of the complete checkpoints, with a blank after each.
  std::string checkpoints(const std::string& dir) const {
    std::vector<std::string> names;
    std::error_code missing;
    for (const auto& entry : fs::directory_iterator(root_ / dir / "checkpoints", missing))
      if (fs::exists(entry.path() / "manifest.json")) names.push_back(entry.path().filename().string());
    std::sort(names.begin(), names.end());
    std::string text;
    for (const std::string& name : names) text += name + " ";
    return text;
  }
  bool is_locked(const std::string& dir) const { return fs::exists(root_ / dir / "run.lock"); }

  // Rank 0's process, as its lock says; 0: there is no lock.
  pid_t locked_by(const std::string& dir) const {
    const std::string lock = content(root_ / dir / "run.lock");
    const std::size_t at = lock.find("\"pid\":");
    return at == std::string::npos ? 0 : static_cast<pid_t>(std::atoi(lock.c_str() + at + 6));
  }

  std::string source_, program_;
  fs::path root_;
};

}  // namespace qat::cli

// Errors that a user sees. Every layer throws these; launch/ turns them into one message and the exit code.
#pragma once

#include <stdexcept>
#include <string>

namespace qat {

// The value is the exit code of the process (README, "Exit codes").
enum class ErrorKind : int {
  kInternal = 1,       // a broken promise of this program: always worth a bug report
  kConfig = 2,         // configuration or usage
  kData = 3,           // token files, text, tokenizer files
  kCheckpoint = 4,     // unreadable or mismatched checkpoint
  kOutOfMemory = 5,    //
  kCommunication = 6,  // MPI, NCCL, a lost rank
  kWatchdog = 7,       // a hang
  kDiverged = 8,       // non-finite steps in a row
  kSelfCheck = 9,      // replicas or checksums differ
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& message) : std::runtime_error(message), kind_(kind) {}
  ErrorKind kind() const noexcept { return kind_; }
  int exit_code() const noexcept { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

// Throws kInternal: for what no input can cause. `what` says which promise is broken.
[[noreturn]] void fail_internal(const char* condition, const std::string& what, const char* file, int line);

}  // namespace qat

// A check of our own logic, kept in release builds. User errors throw qat::Error with their own words instead.
#define QAT_CHECK(condition, what)                                                  \
  do {                                                                              \
    if (!(condition)) ::qat::fail_internal(#condition, (what), __FILE__, __LINE__); \
  } while (false)

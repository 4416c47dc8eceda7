// A save in parts: the long ones run on a thread of their own while training goes on
// (src/checkpoint/background_save.h), and the collective ones, which are short, between two steps.
#pragma once

#include <filesystem>

namespace qat {

// How the long parts tell what they have come to.
class SaveProgress {
 public:
  virtual ~SaveProgress() = default;
  // Something was done; at least once for every few MiB. Throws Error(kCheckpoint) if the save has been given up.
  virtual void beat() = 0;
  // All values have been read: their memory may change from now on.
  virtual void values_read() noexcept = 0;
};

// Every rank has one, and calls all four in this order. What fails in write() or commit() waits for the collective part
// that follows, which throws it as AgreedError on every rank.
class SaveWork {
 public:
  virtual ~SaveWork() = default;
  // Any thread, without a collective: this rank's files, on stable storage.
  virtual void write(SaveProgress& progress) noexcept = 0;
  // Collective: all ranks have written.
  virtual void collect() = 0;
  // Any thread, without a collective: the checkpoint gets its name. False if that failed on this rank.
  virtual bool commit(SaveProgress& progress) noexcept = 0;
  // Collective: the checkpoint exists. Returns its folder.
  virtual std::filesystem::path conclude() = 0;
};

}  // namespace qat

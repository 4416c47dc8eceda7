// One save on a thread of its own:
//
//   BackgroundSave save(std::move(work), comm);      // the thread begins to write
//   ... forward, backward ...                        // whatever only reads the values
//   save.wait_until_read();                          // this rank alone, before the values change
//   ... update ...
//   while (!save.advance()) { ... a step ... }       // collective, between steps
//   folder = save.finish();                          // collective; without advance() before, it waits
//
// The thread calls no communicator: what ranks agree on, they agree on in advance() and finish(), on the thread that
// trains. A process has one such thread at a time, and with it one writer to HDF5.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

#include "dist/comm/communicator.h"
#include "src/checkpoint/save_work.h"

namespace qat {

class BackgroundSave final : private SaveProgress {
 public:
  // comm must outlive this; what `work` reads stays as it is until wait_until_read() has returned.
  BackgroundSave(std::unique_ptr<SaveWork> work, dist::Communicator& comm);
  BackgroundSave(const BackgroundSave&) = delete;
  BackgroundSave& operator=(const BackgroundSave&) = delete;
  // Without finish() the save is given up: the thread stops at its next block, and is waited for.
  ~BackgroundSave() override;

  // Whether this rank has read all its values.
  bool has_read() const;
  // Returns when it has, or has failed. While this thread waits it beats for the other.
  void wait_until_read();

  // Collective; does not wait for a writer. Asks whether all ranks have come to the end of their part, and begins the
  // next one. True: the save is over, and finish() returns at once. Throws AgreedError if a rank could not write.
  bool advance();
  // Collective: waits for the end. Returns the folder, or throws the AgreedError of a rank that failed. Called once.
  std::filesystem::path finish();

 private:
  enum class Stage : std::uint8_t { kWriting, kWritten, kCommitting, kCommitted };

  void beat() override;
  void values_read() noexcept override;
  void run();  // the thread
  void reach(Stage stage);
  void begin_commit();  // collective
  bool has_ended() const;
  void wait_for(const std::function<bool()>& reached);  // called with the lock held

  std::unique_ptr<SaveWork> work_;
  dist::Communicator& comm_;
  bool collected_ = false;  // the stage that all ranks are in: writing, or committing

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  Stage stage_ = Stage::kWriting;  // of this rank's thread
  bool read_ = false;
  bool given_up_ = false;
  std::uint64_t beats_ = 0;

  std::thread thread_;  // last: it uses all of the above
};

}  // namespace qat

// A save in which every rank writes the elements that it owns, and none holds more of them in a buffer than a few MiB.
//
//   ShardedSave save(root, step, pieces, rest, comm);   // collective
//   save.write();                                       // each rank its own, without a collective
//   const path folder = save.finish();                  // collective: the checkpoint exists, or every rank throws
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "kernels/common/error.h"
#include "src/checkpoint/pieces.h"
#include "src/checkpoint/writer.h"

namespace qat {

class ShardedSave {
 public:
  // Puts into checkpoint.h5 what is no piece: attributes, small tensors.
  using Rest = std::function<void(CheckpointWriter&)>;

  // Collective. Rank 0 asks for the space, makes the scratch folder below `root` and writes checkpoint.h5 with `rest`;
  // every rank looks whether it sees that folder. What `pieces` point to stays as it is until write() has returned. A
  // failure of any rank, here and below, is thrown by all as AgreedError with save_failure()'s words; when the object
  // is gone nothing is left behind.
  ShardedSave(const std::filesystem::path& root, std::int64_t step, std::vector<TensorPiece> pieces, const Rest& rest,
              dist::Communicator& comm);

  // Writes this rank's file. A failure waits for finish().
  void write() noexcept;

  // Returns the checkpoint's folder. Called once.
  std::filesystem::path finish();

 private:
  std::filesystem::path root_;
  std::int64_t step_;
  std::vector<TensorPiece> pieces_;
  dist::Communicator& comm_;
  std::optional<CheckpointWriter> writer_;  // rank 0's
  std::filesystem::path folder_;            // the scratch folder
  std::int64_t tensor_bytes_ = 0;           // of this rank, written so far
  std::optional<ManifestFile> shard_;       // of a rank with pieces, once it is written
  std::optional<Error> failure_;            // why it could not be
};

}  // namespace qat

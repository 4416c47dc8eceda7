// A save in which every rank writes the elements that it owns, and none holds more of them in a buffer than a few MiB.
//
//   ShardedSave save(root, step, pieces, rest, comm);   // collective
//   save.write();                                       // each rank its own, without a collective
//   const path folder = save.finish();                  // collective: the checkpoint exists, or every rank throws
//
// Its parts by themselves (save_work.h) are for a thread that writes beside training.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dist/comm/communicator.h"
#include "kernels/common/device_stream.h"
#include "kernels/common/error.h"
#include "src/checkpoint/pieces.h"
#include "src/checkpoint/save_work.h"
#include "src/checkpoint/writer.h"

namespace qat {

// Where the pieces' values come about. On a GPU: its number, and the stream on which what has been enqueued by now
// makes them; whoever writes reads them on a stream of its own, after that.
struct PieceOrigin {
  Device device = Device::kCpu;
  int gpu = 0;
  StreamRef stream{};
};

class ShardedSave final : public SaveWork {
 public:
  // Puts into checkpoint.h5 what is no piece: attributes, small tensors.
  using Rest = std::function<void(CheckpointWriter&)>;

  // Collective. Rank 0 asks for the space, makes the scratch folder below `root` and writes checkpoint.h5 with `rest`;
  // every rank looks whether it sees that folder. What `pieces` point to stays as it is until write() has returned, or
  // said values_read(). A failure of any rank, here and below, is thrown by all as AgreedError with save_failure()'s
  // words; when the object is gone nothing is left behind.
  ShardedSave(const std::filesystem::path& root, std::int64_t step, std::vector<TensorPiece> pieces, const Rest& rest,
              dist::Communicator& comm, const PieceOrigin& origin = {});

  void write(SaveProgress& progress) noexcept override;  // this rank's file
  void collect() override;
  bool commit(SaveProgress& progress) noexcept override;  // rank 0's; the others have nothing to do
  std::filesystem::path conclude() override;

  // On this thread: write(), and the other parts one after the other.
  void write() noexcept;
  std::filesystem::path finish();

 private:
  std::filesystem::path root_;
  std::int64_t step_;
  std::vector<TensorPiece> pieces_;
  dist::Communicator& comm_;
  std::optional<CheckpointWriter> writer_;  // rank 0's
  std::filesystem::path folder_;            // the scratch folder
  std::int64_t tensor_bytes_ = 0;           // of this rank, written so far
  PieceOrigin origin_;
  DeviceEvent made_;                   // the values, on origin_.stream
  std::optional<ManifestFile> shard_;  // of a rank with pieces, once it is written
  std::vector<ManifestFile> shards_;   // of all ranks
  std::optional<Error> failure_;       // why this rank's part could not be done
};

}  // namespace qat

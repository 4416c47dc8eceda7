#include "src/checkpoint/sharded_save.h"

#include <fmt/format.h>

#include <numeric>
#include <span>
#include <system_error>
#include <utility>

#include "dist/comm/agree.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"
#include "src/checkpoint/shared_folder.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

constexpr char kWhat[] = "checkpoint";

// By rank: what all of them have written; nothing of those without pieces.
std::vector<ManifestFile> gather_shards(const std::optional<ManifestFile>& mine, dist::Communicator& comm) {
  constexpr std::size_t kWords = 3;
  const std::vector<std::int64_t> own = {mine ? 1 : 0, mine ? mine->bytes : 0,
                                         mine ? static_cast<std::int64_t>(mine->xxh3) : 0};
  std::vector<std::int64_t> all(kWords * static_cast<std::size_t>(comm.size()));
  comm.all_gather(view(own), view(all));
  std::vector<ManifestFile> shards;
  for (std::size_t i = 0; i < all.size(); i += kWords) {
    if (all[i] == 0) continue;
    shards.push_back(
        {shard_file_name(static_cast<std::int64_t>(i / kWords)), all[i + 1], static_cast<std::uint64_t>(all[i + 2])});
  }
  return shards;
}

// Of a save on the thread that trains: it may beat for itself.
class OnThisThread final : public SaveProgress {
 public:
  explicit OnThisThread(dist::Communicator& comm) : comm_(comm) {}
  void beat() override { comm_.beat(); }
  void values_read() noexcept override {}

 private:
  dist::Communicator& comm_;
};

}  // namespace

ShardedSave::ShardedSave(const fs::path& root, std::int64_t step, std::vector<TensorPiece> pieces, const Rest& rest,
                         dist::Communicator& comm, const PieceOrigin& origin)
    : root_(root), step_(step), pieces_(std::move(pieces)), comm_(comm), origin_(origin), made_(origin.device) {
  made_.record(origin.stream);
  const std::vector<std::string> lists = dist::gather_strings(comm, list_pieces(pieces_));
  dist::on_every_rank(comm, kWhat, [&] {
    if (comm.rank() != 0) return;
    const std::vector<ShardedTensor> tensors = assemble_pieces(lists);
    const std::int64_t bytes =
        std::accumulate(tensors.begin(), tensors.end(), std::int64_t{0},
                        [](std::int64_t sum, const ShardedTensor& tensor) { return sum + tensor.bytes(); });
    writer_.emplace(CheckpointWriter::begin(root, step, bytes));
    for (const ShardedTensor& tensor : tensors) writer_->write_sharded(tensor);
    rest(*writer_);
    writer_->close_file();
    folder_ = fs::absolute(writer_->folder());
  });
  folder_ = dist::broadcast_string(comm, folder_.string());
  dist::on_every_rank(comm, kWhat, [&] {
    if (!wait_to_see(folder_ / kCheckpointFileName))
      throw Error(
          ErrorKind::kCheckpoint,
          save_failure(root_, step_,
                       fmt::format("{}, made by rank 0, is not to be seen here: every rank writes its part of a "
                                   "checkpoint into run.dir, which must be on a file system that all nodes share",
                                   folder_.string()),
                       /*written=*/0, /*needed=*/0));
  });
}

void ShardedSave::write(SaveProgress& progress) noexcept {
  if (pieces_.empty()) return;
  std::string where;  // what was being written when it failed, and how much of it
  std::int64_t needed = 0;
  const auto beat = [&progress] { progress.beat(); };
  try {
    if (origin_.device == Device::kCuda) set_cuda_device(origin_.gpu);
    const DeviceStream stream(origin_.device);
    made_.hold(stream.ref());
    ShardWriter shard(folder_, step_, comm_.rank(), stream.ref());
    for (const TensorPiece& piece : pieces_) {
      where = fmt::format("tensor {} ({}, elements {} to {}): ", piece.name, describe(piece.values.dtype, piece.shape),
                          piece.first, piece.first + piece.values.elems - 1);
      needed = static_cast<std::int64_t>(piece.values.bytes());
      shard.write(piece, beat);
      tensor_bytes_ += needed;
    }
    progress.values_read();
    where.clear();
    needed = 0;
    shard_ = shard.finish(beat);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal)
      failure_ = error;
    else
      failure_.emplace(error.kind(), save_failure(root_, step_, where + error.what(), tensor_bytes_, needed));
  } catch (const std::exception& error) {
    failure_.emplace(ErrorKind::kInternal, error.what());
  }
}

void ShardedSave::collect() {
  dist::on_every_rank(comm_, kWhat, [this] {
    if (failure_) throw Error(*failure_);
  });
  shards_ = gather_shards(shard_, comm_);
}

bool ShardedSave::commit(SaveProgress& progress) noexcept {
  if (!writer_) return true;
  try {
    (void)writer_->commit(shards_, [&progress] { progress.beat(); });
    return true;
  } catch (const Error& error) {
    failure_ = error;
  } catch (const std::exception& error) {
    failure_.emplace(ErrorKind::kInternal, error.what());
  }
  return false;
}

fs::path ShardedSave::conclude() {
  dist::on_every_rank(comm_, kWhat, [this] {
    if (failure_) throw Error(*failure_);
  });
  return root_ / step_folder_name(step_);
}

void ShardedSave::write() noexcept {
  OnThisThread progress(comm_);
  write(progress);
}

fs::path ShardedSave::finish() {
  OnThisThread progress(comm_);
  collect();
  (void)commit(progress);
  return conclude();
}

}  // namespace qat

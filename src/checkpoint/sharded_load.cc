#include "src/checkpoint/sharded_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <system_error>

#include "dist/comm/agree.h"
#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

// What is read at once on the way to a GPU: several of a file's chunks, since those that it ends in are read twice.
constexpr std::int64_t kBlockBytes = 16 << 20;

void load_through_host(const CheckpointReader& reader, const PieceTarget& target,
                       const std::function<void()>& on_block) {
  const BufferView& values = target.values;
  const auto element_bytes = static_cast<std::int64_t>(size_of(values.dtype));
  const std::int64_t block = std::min(values.elems, kBlockBytes / element_bytes);
  const auto buffer = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(block * element_bytes));
  for (std::int64_t at = 0; at < values.elems; at += block) {
    const BufferView part{buffer.get(), std::min(block, values.elems - at), values.dtype, Device::kCpu};
    reader.read_elements(target.name, target.shape, target.first + at, part);
    cuda_copy_to_device(static_cast<std::byte*>(values.data) + at * element_bytes, part.data, part.bytes());
    if (on_block) on_block();
  }
}

CheckpointReader open_as_root(const fs::path& folder, const std::string& manifest) {
  std::error_code error;
  if (!fs::exists(folder, error))
    throw Error(
        ErrorKind::kCheckpoint,
        fmt::format("cannot load the checkpoint {}: it is not to be seen here. Every rank reads its part of the "
                    "optimizer's state: the checkpoint must be on a file system that all nodes share",
                    folder.string()));
  CheckpointReader reader = CheckpointReader::open_plainly(folder, {.verify_hash = false, .hold_files = false});
  if (to_json(reader.manifest()) != manifest)
    throw Error(ErrorKind::kCheckpoint,
                fmt::format("cannot load the checkpoint {}: rank 0 sees another one under this name", folder.string()));
  return reader;
}

}  // namespace

void load_pieces(const CheckpointReader& reader, std::span<const PieceTarget> targets,
                 const std::function<void()>& on_block) {
  for (const PieceTarget& target : targets) {
    if (target.values.device == Device::kCuda) {
      load_through_host(reader, target, on_block);
    } else {
      reader.read_elements(target.name, target.shape, target.first, target.values);
      if (on_block) on_block();
    }
  }
}

void load_sharded(const CheckpointReader* reader, std::span<const PieceTarget> targets, dist::Communicator& comm) {
  const std::string folder =
      dist::broadcast_string(comm, reader != nullptr ? fs::absolute(reader->info().folder).string() : "");
  const std::string manifest = dist::broadcast_string(comm, reader != nullptr ? to_json(reader->manifest()) : "");
  dist::on_every_rank(comm, "checkpoint", [&] {
    std::optional<CheckpointReader> own;
    if (reader == nullptr) own.emplace(open_as_root(folder, manifest));
    load_pieces(reader != nullptr ? *reader : *own, targets, [&] { comm.beat(); });
  });
}

}  // namespace qat

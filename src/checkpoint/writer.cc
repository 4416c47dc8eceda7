#include "src/checkpoint/writer.h"

#include <fmt/format.h>

#include <cstring>
#include <system_error>
#include <utility>

#include "kernels/common/cuda_device.h"
#include "kernels/common/error.h"
#include "src/checkpoint/durable_file.h"

namespace qat {
namespace {

namespace fs = std::filesystem;

void make_root(const fs::path& root) {
  std::error_code error;
  const bool made = fs::create_directories(root, error);
  if (error) {
    throw Error(ErrorKind::kCheckpoint, fmt::format("cannot make the folder {}: {}", root.string(), error.message()));
  }
  if (made) sync_to_disk(fs::absolute(root).parent_path());
}

// A closed file's entry in the manifest, once the file is on stable storage.
ManifestFile settle(const fs::path& file, const std::function<void()>& on_block) {
  start_writeback(file);
  std::error_code error;
  const auto bytes = static_cast<std::int64_t>(fs::file_size(file, error));
  if (error) throw Error(ErrorKind::kCheckpoint, file.string() + ": " + error.message());
  ManifestFile entry{file.filename().string(), bytes, hash_file(file, on_block)};
  sync_in_slices(file, on_block);
  return entry;
}

// Another rank may have written it where this one does not see it.
void require_visible(const fs::path& folder, const ManifestFile& file) {
  std::error_code error;
  const std::uintmax_t bytes = fs::file_size(folder / file.name, error);
  if (!error && std::cmp_equal(bytes, file.bytes)) return;
  throw Error(ErrorKind::kCheckpoint,
              fmt::format("{}: a rank has written {} bytes there, rank 0 sees {}", (folder / file.name).string(),
                          file.bytes, error ? error.message() : std::to_string(bytes)));
}

void copy_to_host(void* to, const ConstBufferView& from, std::int64_t first, std::size_t bytes, StreamRef stream) {
  const auto* begin = static_cast<const std::byte*>(from.data) + static_cast<std::size_t>(first) * size_of(from.dtype);
  if (from.device == Device::kCuda)
    cuda_copy_to_host(to, begin, bytes, stream);
  else
    std::memcpy(to, begin, bytes);
}

}  // namespace

std::string save_failure(const fs::path& root, std::int64_t step, const std::string& what, std::int64_t written,
                         std::int64_t needed) {
  const std::int64_t free = free_bytes(root);
  return fmt::format(
      "cannot save the checkpoint of step {} in {}: {}; {} bytes of tensors were written{}, {} are "
      "free there. Earlier checkpoints are untouched. Free some space, lower checkpoint.keep, or "
      "move run.dir to another disk",
      step, root.string(), what, written, needed > 0 ? fmt::format(" and {} more bytes needed", needed) : "",
      free < 0 ? "an unknown number" : fmt::format("{} bytes", free));
}

CheckpointWriter::CheckpointWriter(fs::path root, std::int64_t step)
    : root_(std::move(root)), step_(step), scratch_(root_ / scratch_folder_name(kTemporaryPrefix, step)) {}

CheckpointWriter::CheckpointWriter(CheckpointWriter&& other) noexcept
    : root_(std::move(other.root_)),
      step_(other.step_),
      scratch_(std::exchange(other.scratch_, {})),
      file_(std::move(other.file_)),
      tensor_bytes_(other.tensor_bytes_) {
  other.file_.reset();
}

CheckpointWriter::~CheckpointWriter() {
  file_.reset();
  std::error_code ignored;  // what cannot be removed now is a leftover that the next start sweeps
  if (!scratch_.empty()) fs::remove_all(scratch_, ignored);
}

CheckpointWriter CheckpointWriter::begin(const fs::path& root, std::int64_t step, std::int64_t expected_bytes) {
  QAT_CHECK(step >= 0, "a checkpoint's step is not negative");
  CheckpointWriter writer(root, step);
  try {
    make_root(root);
    const std::int64_t free = free_bytes(root);
    if (free >= 0 && free < expected_bytes) throw Error(ErrorKind::kCheckpoint, "not enough space");
    std::error_code error;
    fs::remove_all(writer.scratch_, error);  // of an earlier process that had this process's number
    if (!fs::create_directory(writer.scratch_, error)) {
      throw Error(ErrorKind::kCheckpoint,
                  fmt::format("cannot make the folder {}: {}", writer.scratch_.string(), error.message()));
    }
    writer.file_.emplace(H5File::create(writer.scratch_ / kCheckpointFileName));
    writer.file_->set_attribute("/", "format", std::string("qat_dist checkpoint"));
    writer.file_->set_attribute("/", "step", step);
  } catch (const Error& error) {
    writer.fail(error.what(), expected_bytes);
  }
  return writer;
}

void CheckpointWriter::fail(const std::string& what, std::int64_t bytes_needed) const {
  throw Error(ErrorKind::kCheckpoint, save_failure(root_, step_, what, tensor_bytes_, bytes_needed));
}

void CheckpointWriter::write_tensor(std::string_view name, const Shape& shape, ConstBufferView data) {
  QAT_CHECK(file_.has_value(), "checkpoint.h5 is closed already");
  const auto bytes = static_cast<std::int64_t>(data.bytes());
  try {
    file_->write_dataset(name, shape, data);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    fail(fmt::format("tensor {} ({}): {}", name, describe(data.dtype, shape), error.what()), bytes);
  }
  tensor_bytes_ += bytes;
}

void CheckpointWriter::write_sharded(const ShardedTensor& tensor) {
  QAT_CHECK(file_.has_value(), "checkpoint.h5 is closed already");
  try {
    file_->write_virtual(tensor.name, tensor.shape, tensor.dtype, tensor.parts);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    fail(fmt::format("tensor {}: {}", tensor.name, error.what()), /*bytes_needed=*/0);
  }
}

void CheckpointWriter::set_attribute(std::string_view object, const std::string& key, const Attribute& value) {
  QAT_CHECK(file_.has_value(), "checkpoint.h5 is closed already");
  try {
    file_->set_attribute(object, key, value);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    fail(error.what(), /*bytes_needed=*/0);
  }
}

void CheckpointWriter::close_file() {
  if (!file_) return;
  try {
    file_->close();
    file_.reset();
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    fail(error.what(), /*bytes_needed=*/0);
  }
}

CheckpointInfo CheckpointWriter::commit(const std::vector<ManifestFile>& shards,
                                        const std::function<void()>& on_block) {
  QAT_CHECK(!scratch_.empty(), "a checkpoint is committed once");
  close_file();
  const fs::path target = root_ / step_folder_name(step_);
  Manifest manifest{step_, {}};
  try {
    manifest.files.push_back(settle(scratch_ / kCheckpointFileName, on_block));
    for (const ManifestFile& shard : shards) {
      require_visible(scratch_, shard);
      manifest.files.push_back(shard);
    }
    write_file_durably(scratch_ / kManifestName, to_json(manifest));
    sync_to_disk(scratch_);
    scratch_ = move_into_place(scratch_, target, root_ / scratch_folder_name(kAsidePrefix, step_));
    sync_to_disk(root_);
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::kInternal) throw;
    fail(error.what(), /*bytes_needed=*/0);
  }
  std::error_code ignored;  // the replaced checkpoint, now under a scratch name: the next sweep tries again
  if (!scratch_.empty()) fs::remove_all(std::exchange(scratch_, {}), ignored);
  return {target, step_, manifest.bytes()};
}

ShardWriter::ShardWriter(const fs::path& folder, std::int64_t step, std::int64_t rank, StreamRef stream)
    : file_(H5File::create(folder / shard_file_name(rank))), stream_(stream) {
  file_.set_attribute("/", "format", std::string("qat_dist checkpoint, one rank's part"));
  file_.set_attribute("/", "step", step);
}

void ShardWriter::write(const TensorPiece& piece, const std::function<void()>& on_block) {
  file_.write_blocks(shard_dataset_name(piece.name, piece.first), piece.values.elems, piece.values.dtype,
                     [&](std::int64_t first, BufferView out) {
                       copy_to_host(out.data, piece.values, first, out.bytes(), stream_);
                       if (on_block) on_block();
                     });
}

ManifestFile ShardWriter::finish(const std::function<void()>& on_block) {
  file_.close();
  return settle(file_.path(), on_block);
}

}  // namespace qat

// Saving: a checkpoint is complete or it does not exist. Everything goes to a scratch folder beside the others, is
// flushed, hashed and fsynced, gets its manifest last and its name in one rename; earlier checkpoints stay as they are.
//
// CheckpointWriter is rank 0's: the folder, and checkpoint.h5 with everything small. Large tensors are spread over the
// files of the ranks that own their elements (ShardWriter), and checkpoint.h5 shows them whole. A save over ranks, in
// order, is ShardedSave's (src/checkpoint/sharded_save.h).
//
// Names: /model/<GPT-2 name>, with a string attribute "layout" where rows and columns need saying;
// /optimizer/{exp_avg,exp_avg_sq,step}/<name>; /quant/... for calibrated ranges.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/view.h"
#include "src/checkpoint/catalog.h"
#include "src/checkpoint/h5_file.h"
#include "src/checkpoint/manifest.h"
#include "src/checkpoint/pieces.h"

namespace qat {

// What is said of a save that failed. written: bytes of tensors so far; needed: more bytes that the failed step wanted,
// 0: unknown.
std::string save_failure(const std::filesystem::path& root, std::int64_t step, const std::string& what,
                         std::int64_t written, std::int64_t needed);

class CheckpointWriter {
 public:
  // Makes root when it is not there. `expected_bytes` (0: unknown) is compared with the free space before anything is
  // written. Every failure here and below is an Error(kCheckpoint) with the path and the bytes that were to be written.
  static CheckpointWriter begin(const std::filesystem::path& root, std::int64_t step, std::int64_t expected_bytes = 0);

  CheckpointWriter(CheckpointWriter&& other) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) = delete;
  ~CheckpointWriter();  // without commit() nothing remains

  std::int64_t step() const noexcept { return step_; }
  // The scratch folder: where ranks put their files.
  const std::filesystem::path& folder() const noexcept { return scratch_; }

  // Host data, row-major. After an error the writer is good for nothing but its destruction.
  void write_tensor(std::string_view name, const Shape& shape, ConstBufferView data);
  template <typename T>
  void write_tensor(std::string_view name, const Shape& shape, std::span<const T> data) {
    write_tensor(name, shape, ConstBufferView(view(data)));
  }

  // Shows a tensor whole that the ranks' files hold.
  void write_sharded(const ShardedTensor& tensor);

  // `object`: "/", a tensor written before, or a group such as "/state".
  void set_attribute(std::string_view object, const std::string& key, const Attribute& value);

  // Closes checkpoint.h5, which takes some memory while it is open; commit() does so, too.
  void close_file();

  // The checkpoint exists, durably, when this returns; one of the same step is replaced. Called once. shards: the files
  // that ranks have put into folder(), on stable storage. on_block: called for every few MiB; what it throws ends this.
  CheckpointInfo commit(const std::vector<ManifestFile>& shards = {}, const std::function<void()>& on_block = {});

 private:
  CheckpointWriter(std::filesystem::path root, std::int64_t step);
  [[noreturn]] void fail(const std::string& what, std::int64_t bytes_needed) const;

  std::filesystem::path root_;
  std::int64_t step_ = 0;
  std::filesystem::path scratch_;  // empty: nothing to remove
  std::optional<H5File> file_;     // nullopt: closed, or moved from
  std::int64_t tensor_bytes_ = 0;  // written so far
};

// One rank's file in the writer's folder. Abandoned unless finish() is called; the folder's owner removes it.
class ShardWriter {
 public:
  // Values in GPU memory are read on `stream`.
  ShardWriter(const std::filesystem::path& folder, std::int64_t step, std::int64_t rank, StreamRef stream = {});

  // Reads the piece's memory a few MiB at a time, with a call of `on_block` for each; has read all of it when it
  // returns. Throws Error(kCheckpoint).
  void write(const TensorPiece& piece, const std::function<void()>& on_block = {});
  // The file is on stable storage when this returns; called once. on_block: as above.
  ManifestFile finish(const std::function<void()>& on_block = {});

 private:
  H5File file_;
  StreamRef stream_;
};

}  // namespace qat

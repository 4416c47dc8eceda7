// Loading: any number of ranks, whatever number wrote it, may open the same checkpoint and read tensors by name, whole
// or in part. Where a tensor's values lie (in checkpoint.h5, or spread over the ranks' files) does not show.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/common/error.h"
#include "src/checkpoint/catalog.h"
#include "src/checkpoint/h5_file.h"
#include "src/checkpoint/manifest.h"
#include "src/checkpoint/pieces.h"

namespace qat {

struct ReadOptions {
  bool verify_hash = true;  // compare all files with the manifest's XXH3 before anything is read
  bool strict = false;      // of several, a damaged newest one is an error, not a warning
  bool hold_files = true;   // open all files at once, to keep them whatever becomes of the folder; else at first use
};

class CheckpointReader {
 public:
  // Throws Error(kCheckpoint), naming folder and reason, unless manifest, sizes and (verify_hash) content match. Chunk
  // checksums are compared on every read, whatever the options.
  static CheckpointReader open(const std::filesystem::path& folder, const ReadOptions& options = {});
  // The same without a word about other checkpoints that could be taken instead, which costs reading them.
  static CheckpointReader open_plainly(const std::filesystem::path& folder, const ReadOptions& options = {});

  const CheckpointInfo& info() const noexcept { return info_; }
  const Manifest& manifest() const noexcept { return manifest_; }

  // Names below a group, sorted: tensor_names("/model") -> "/model/transformer.wte.weight", ...
  std::vector<std::string> tensor_names(std::string_view group = "/") const { return file_.list_datasets(group); }
  bool has_tensor(std::string_view name) const { return file_.has_dataset(name); }
  TensorInfo tensor_info(std::string_view name) const { return file_.dataset_info(name); }

  // Fills `out` with elements [first, first + out.elems) in row-major order; throws Error(kCheckpoint) naming file,
  // tensor, expected and found when type or shape differ. Memory beside `out`: a few MiB.
  void read_elements(std::string_view name, const Shape& shape, std::int64_t first, BufferView out) const;
  // All of them.
  void read_tensor(std::string_view name, const Shape& shape, BufferView out) const;
  template <typename T>
  void read_tensor(std::string_view name, const Shape& shape, std::span<T> out) const {
    read_tensor(name, shape, view(out));
  }
  // Whatever shape it has.
  template <typename T>
  std::vector<T> read_tensor(std::string_view name) const {
    const TensorInfo found = tensor_info(name);
    // A wrong type must throw before its elements are counted in units of another size.
    if (found.dtype != dtype_of<T>()) throw_different(found, dtype_of<T>(), found.shape);
    std::vector<T> values(static_cast<std::size_t>(element_count(found.shape)));
    read_tensor(name, found.shape, std::span<T>(values));
    return values;
  }

  bool has_attribute(std::string_view object, const std::string& key) const { return file_.has_attribute(object, key); }
  // T: std::int64_t, double or std::string; another stored type is an Error(kCheckpoint).
  template <typename T>
  T attribute(std::string_view object, const std::string& key) const {
    const Attribute value = file_.attribute(object, key);
    if (const T* found = std::get_if<T>(&value)) return *found;
    throw Error(ErrorKind::kCheckpoint,
                file_.path().string() + ": attribute '" + key + "' on " + std::string(object) + " has another type");
  }

 private:
  CheckpointReader(const std::filesystem::path& folder, Manifest manifest);
  const H5File& shard(const std::string& name) const;
  void require_step(const H5File& file) const;
  [[noreturn]] void throw_different(const TensorInfo& found, DType expected, const Shape& shape) const;

  CheckpointInfo info_;
  Manifest manifest_;
  H5File file_;                                   // checkpoint.h5
  mutable std::map<std::string, H5File> shards_;  // those open, by name
};

// The newest checkpoint of a run folder or root that opens. A damaged one is passed over with a call of `warn`, which
// names both steps, or, with options.strict, thrown. Nothing when there is no step_ folder at all; Error(kCheckpoint)
// when there are, but none is sound: a run never starts afresh beside checkpoints that it cannot read.
//
// The run may be going on: where its retention takes a folder away between listing and opening, the folder is listed
// anew. An open reader keeps the files it reads, whatever becomes of their folder.
std::optional<CheckpointReader> open_newest_valid(const std::filesystem::path& path,
                                                  const std::function<void(const std::string&)>& warn,
                                                  const ReadOptions& options = {});

// The checkpoint that a user's `path` means: a checkpoint's own folder and no other, or open_newest_valid's of a run
// folder or root, where one must be.
CheckpointReader open_checkpoint(const std::filesystem::path& path, const std::function<void(const std::string&)>& warn,
                                 const ReadOptions& options = {});

}  // namespace qat

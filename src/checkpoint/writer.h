// Saving: a checkpoint is complete or it does not exist. Everything goes to a scratch folder beside the others, is
// flushed, hashed and fsynced, gets its manifest last and its name in one rename; earlier checkpoints stay as they are.
//
//   CheckpointWriter writer = CheckpointWriter::begin(root, step);
//   save_train_state(writer, state);                                   // attributes below /state
//   writer.write_tensor("/model/transformer.wte.weight", {50257, 768}, view(weights));
//   writer.commit();
//
// Names: /model/<GPT-2 name>, with a string attribute "layout" where rows and columns need saying;
// /optimizer/{exp_avg,exp_avg_sq,step}/<name>; /quant/... for calibrated ranges. One rank writes, tensors are whole.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/common/view.h"
#include "src/checkpoint/catalog.h"
#include "src/checkpoint/h5_file.h"

namespace qat {

class CheckpointWriter {
 public:
  // Makes root when it is not there. `expected_bytes` (0: unknown) is compared with the free space before anything is
  // written. Every failure here and below is an Error(kCheckpoint) with the path and the bytes that were to be written.
  static CheckpointWriter begin(const std::filesystem::path& root, std::int64_t step, std::int64_t expected_bytes = 0);

  CheckpointWriter(CheckpointWriter&& other) noexcept;
  CheckpointWriter& operator=(CheckpointWriter&&) = delete;
  ~CheckpointWriter();  // without commit() nothing remains

  std::int64_t step() const noexcept { return step_; }

  // Host data, row-major. After an error the writer is good for nothing but its destruction.
  void write_tensor(std::string_view name, const Shape& shape, ConstBufferView data);
  template <typename T>
  void write_tensor(std::string_view name, const Shape& shape, std::span<const T> data) {
    write_tensor(name, shape, ConstBufferView(view(data)));
  }

  // `object`: "/", a tensor written before, or a group such as "/state".
  void set_attribute(std::string_view object, const std::string& key, const Attribute& value);

  // The checkpoint exists, durably, when this returns; one of the same step is replaced. Called once.
  CheckpointInfo commit();

 private:
  CheckpointWriter(std::filesystem::path root, std::int64_t step);
  [[noreturn]] void fail(const std::string& what, std::int64_t bytes_needed) const;

  std::filesystem::path root_;
  std::int64_t step_ = 0;
  std::filesystem::path scratch_;  // empty: nothing to remove
  std::optional<H5File> file_;     // nullopt: committed, or moved from
  std::int64_t tensor_bytes_ = 0;  // written so far
};

}  // namespace qat

// All parameters in flat fp32 buffers, so that the optimizer, the gradient exchange and the checkpoint see ranges, and
// the model sees tensors that are views of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "src/quant/gradient_sink.h"

namespace qat {

// Which slot a parameter lives in : `kBase` is used at every width; `kShared` is LoRA and layer norms, shared
// by all widths under cyclic precision training.
enum class ParameterGroup : std::uint8_t { kBase, kShared };

struct ParameterInfo {
  std::string name;                 // GPT-2's usual name
  std::vector<std::int64_t> shape;  // linear weights are [out, in]
  ParameterGroup group = ParameterGroup::kBase;
  bool trainable = true;
  bool decay = true;        // weight decay applies: matrices, not norms and biases
  std::int64_t offset = 0;  // in the trainable or the frozen buffer
  std::int64_t elems = 0;
};

class ParameterStore {
 public:
  // Declares a parameter and returns its id; before allocate() only.
  int add(std::string name, std::vector<std::int64_t> shape, ParameterGroup group, bool trainable, bool decay);
  // Makes the buffers, zeroed. Trainable parameters come first to last in order of declaration, each at a multiple of
  // kNormBlock; the flat buffer is padded to a multiple of `pad_to` elements. What lies between them stays zero.
  void allocate(std::int64_t pad_to, at::Device device = at::kCPU);

  std::int64_t count() const { return static_cast<std::int64_t>(infos_.size()); }
  const ParameterInfo& info(int id) const { return infos_.at(static_cast<std::size_t>(id)); }
  const std::vector<ParameterInfo>& infos() const { return infos_; }
  const at::Tensor& tensor(int id) const { return tensors_.at(static_cast<std::size_t>(id)); }

  std::int64_t trainable_elems() const { return trainable_elems_; }  // without gaps and padding
  std::int64_t frozen_elems() const { return frozen_elems_; }
  at::Device device() const { return trainable_.device(); }
  std::span<float> trainable_flat();  // padded; on device()
  // One parameter's values through host memory: for files, initial values and tests.
  std::vector<float> host_values(int id) const;
  void set_values(int id, std::span<const float> values);
  // Of all parameters' bits, on the device: the same for the same bits, another if any one bit differs.
  std::int64_t checksum() const;

  // The trainable tensors, in order of declaration: what gradients are taken of.
  const std::vector<at::Tensor>& trainable_tensors() const { return trainable_tensors_; }
  // Trainable parameter `id`'s place in a buffer of trainable_flat()'s layout, on device().
  at::Tensor place_in(std::span<float> flat, int id) const;
  // Copies gradients (one for each trainable tensor; undefined: none) into their places in `flat`, on device(), which
  // has trainable_flat()'s layout; those without one become zeros. produced[i] becomes true for each that had one. A
  // gradient that already stands in its place is not copied; what is no parameter's place is not touched.
  void scatter_gradients(const std::vector<at::Tensor>& gradients, std::span<float> flat,
                         std::vector<bool>& produced) const;

 private:
  std::vector<ParameterInfo> infos_;
  std::vector<at::Tensor> tensors_, trainable_tensors_;
  std::vector<std::int64_t> trainable_offsets_;
  at::Tensor trainable_, frozen_;
  std::int64_t trainable_elems_ = 0, frozen_elems_ = 0;
  std::int64_t trainable_end_ = 0;  // of the last trainable parameter so far, in the flat buffer
};

// Where a pass may leave the gradients of its parameters: in their places in one flat buffer, from which they need not
// be copied. Each place is given away once, so that of a parameter used twice the second gradient stands elsewhere, and
// autograd adds the two.
class GradientPlaces : public GradientSink {
 public:
  // Both must outlive this.
  GradientPlaces(const ParameterStore& store, std::span<float> flat)
      : store_(&store), flat_(flat), taken_(static_cast<std::size_t>(store.count()), false) {}
  at::Tensor open(int id) override;
  at::Tensor opened(int id) override;
  void written(int /*id*/) override {}  // scatter_gradients comes after the pass

 private:
  const ParameterStore* store_;
  std::span<float> flat_;
  std::vector<bool> taken_;
};

}  // namespace qat

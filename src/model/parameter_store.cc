#include "src/model/parameter_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

namespace qat {

int ParameterStore::add(std::string name, std::vector<std::int64_t> shape, ParameterGroup group, bool trainable,
                        bool decay) {
  QAT_CHECK(tensors_.empty(), "parameters are declared before they are allocated");
  ParameterInfo info{
      .name = std::move(name), .shape = std::move(shape), .group = group, .trainable = trainable, .decay = decay};
  info.elems = std::accumulate(info.shape.begin(), info.shape.end(), std::int64_t{1}, std::multiplies<>());
  std::int64_t& end = trainable ? trainable_elems_ : frozen_elems_;
  info.offset = end;
  end += info.elems;
  infos_.push_back(std::move(info));
  return static_cast<int>(infos_.size()) - 1;
}

void ParameterStore::allocate(std::int64_t pad_to) {
  const std::int64_t padded = (trainable_elems_ + pad_to - 1) / pad_to * pad_to;
  trainable_ = at::zeros({padded}, at::kFloat);
  frozen_ = at::zeros({frozen_elems_}, at::kFloat);
  for (const ParameterInfo& info : infos_) {
    const at::Tensor& buffer = info.trainable ? trainable_ : frozen_;
    at::Tensor leaf = buffer.narrow(0, info.offset, info.elems).view(info.shape);
    leaf.set_requires_grad(info.trainable);
    if (info.trainable) {
      trainable_tensors_.push_back(leaf);
      trainable_offsets_.push_back(info.offset);
    }
    tensors_.push_back(std::move(leaf));
  }
}

std::span<float> ParameterStore::trainable_flat() { return span_of(trainable_); }

std::span<float> ParameterStore::values(int id) {
  const ParameterInfo& one = info(id);
  const std::span<float> buffer = span_of(one.trainable ? trainable_ : frozen_);
  return buffer.subspan(static_cast<std::size_t>(one.offset), static_cast<std::size_t>(one.elems));
}

void ParameterStore::scatter_gradients(const std::vector<at::Tensor>& gradients, std::span<float> flat,
                                       std::vector<bool>& produced) const {
  QAT_CHECK(gradients.size() == trainable_tensors_.size(), "one gradient for each trainable parameter");
  produced.resize(gradients.size(), false);
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) continue;
    const at::Tensor dense = gradients[i].contiguous();
    std::memcpy(flat.data() + trainable_offsets_[i], dense.const_data_ptr<float>(), sizeof(float) * dense.numel());
    produced[i] = true;
  }
}

}  // namespace qat

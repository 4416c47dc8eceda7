#include "src/model/parameter_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "dist/grad/norm_block.h"
#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

std::int64_t round_up(std::int64_t value, std::int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

}  // namespace

int ParameterStore::add(std::string name, std::vector<std::int64_t> shape, ParameterGroup group, bool trainable,
                        bool decay) {
  QAT_CHECK(tensors_.empty(), "parameters are declared before they are allocated");
  ParameterInfo info{
      .name = std::move(name), .shape = std::move(shape), .group = group, .trainable = trainable, .decay = decay};
  info.elems = std::accumulate(info.shape.begin(), info.shape.end(), std::int64_t{1}, std::multiplies<>());
  if (trainable) {
    info.offset = round_up(trainable_end_, kNormBlock);
    trainable_end_ = info.offset + info.elems;
    trainable_elems_ += info.elems;
  } else {
    info.offset = frozen_elems_;
    frozen_elems_ += info.elems;
  }
  infos_.push_back(std::move(info));
  return static_cast<int>(infos_.size()) - 1;
}

void ParameterStore::allocate(std::int64_t pad_to, at::Device device) {
  const std::int64_t padded = round_up(round_up(trainable_end_, kNormBlock), pad_to);
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  trainable_ = at::zeros({padded}, options);
  frozen_ = at::zeros({frozen_elems_}, options);
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

std::vector<float> ParameterStore::host_values(int id) const {
  const at::Tensor host = tensor(id).detach().to(at::kCPU).contiguous();
  const std::span<const float> values = const_span(host);
  return {values.begin(), values.end()};
}

void ParameterStore::set_values(int id, std::span<const float> values) {
  const ParameterInfo& one = info(id);
  QAT_CHECK(static_cast<std::int64_t>(values.size()) == one.elems, "one value for each element of " + one.name);
  const at::NoGradGuard no_grad;
  const at::Tensor host =
      at::from_blob(const_cast<float*>(values.data()), one.shape, at::TensorOptions().dtype(at::kFloat));
  tensors_.at(static_cast<std::size_t>(id)).copy_(host);
}

std::int64_t ParameterStore::checksum() const {
  // A sum of 32-bit words: flipping a bit changes it by a power of two.
  std::int64_t sum = 0;
  for (const at::Tensor& flat : {trainable_, frozen_})
    if (flat.defined() && flat.numel() > 0)
      sum = static_cast<std::int64_t>(
          static_cast<std::uint64_t>(sum) * 31U +
          static_cast<std::uint64_t>(flat.view(at::kInt).sum(at::kLong).item<std::int64_t>()));
  return sum;
}

at::Tensor ParameterStore::place_in(std::span<float> flat, int id) const {
  const ParameterInfo& one = info(id);
  QAT_CHECK(one.trainable && static_cast<std::int64_t>(flat.size()) == trainable_.numel(),
            "a place in a buffer like trainable_flat()'s");
  return at::from_blob(flat.data() + one.offset, one.shape, trainable_.options());
}

at::Tensor GradientPlaces::open(int id) {
  const auto at = static_cast<std::size_t>(id);
  if (!store_->info(id).trainable || taken_.at(at)) return {};
  taken_[at] = true;
  return store_->place_in(flat_, id);
}

at::Tensor GradientPlaces::opened(int id) {
  return taken_.at(static_cast<std::size_t>(id)) ? store_->place_in(flat_, id) : at::Tensor();
}

void ParameterStore::scatter_gradients(const std::vector<at::Tensor>& gradients, std::span<float> flat,
                                       std::vector<bool>& produced) const {
  QAT_CHECK(gradients.size() == trainable_tensors_.size(), "one gradient for each trainable parameter");
  produced.resize(gradients.size(), false);
  std::vector<at::Tensor> from, to;
  const at::Tensor buffer = at::from_blob(flat.data(), {static_cast<std::int64_t>(flat.size())}, trainable_.options());
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) {
      buffer.narrow(0, trainable_offsets_[i], trainable_tensors_[i].numel()).zero_();
      continue;
    }
    produced[i] = true;
    at::Tensor place = buffer.narrow(0, trainable_offsets_[i], gradients[i].numel()).view(gradients[i].sizes());
    if (place.const_data_ptr() == gradients[i].const_data_ptr()) continue;
    from.push_back(gradients[i]);
    to.push_back(std::move(place));
  }
  const at::NoGradGuard no_grad;
  if (!to.empty()) at::_foreach_copy_(to, from);
}

}  // namespace qat

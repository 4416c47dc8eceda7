#include "src/model/parameter_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "dist/grad/norm_block.h"
#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

std::int64_t elems_of(const std::vector<ParameterInfo>& infos, bool trainable) {
  std::int64_t sum = 0;
  for (const ParameterInfo& info : infos) sum += info.trainable == trainable ? info.elems : 0;
  return sum;
}

}  // namespace

int ParameterStore::add(std::string name, std::vector<std::int64_t> shape, GroupKey group, bool trainable, bool decay) {
  QAT_CHECK(tensors_.empty(), "parameters are declared before they are allocated");
  const auto id = static_cast<int>(infos_.size());
  ParameterInfo info{
      .name = std::move(name), .shape = std::move(shape), .group = group, .trainable = trainable, .decay = decay};
  info.elems = std::accumulate(info.shape.begin(), info.shape.end(), std::int64_t{1}, std::multiplies<>());
  if (trainable) {
    auto own = std::find_if(groups_.begin(), groups_.end(), [&](const FlatGroup& one) { return one.key == group; });
    if (own == groups_.end()) own = groups_.insert(groups_.end(), FlatGroup{.key = group});
    info.group_index = static_cast<int>(own - groups_.begin());
    info.layout_index = static_cast<int>(own->ids.size());
    own->ids.push_back(id);
  }
  infos_.push_back(std::move(info));
  return id;
}

void ParameterStore::allocate(std::int64_t pad_to, at::Device device, std::int64_t bucket_elems) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(device);
  for (FlatGroup& group : groups_) {
    std::vector<std::int64_t> elems;
    for (const int id : group.ids) elems.push_back(info(id).elems);
    group.layout = dist::FlatLayout(elems, {.block = kNormBlock, .pad_to = pad_to, .bucket_elems = bucket_elems});
    group.values = at::zeros({group.layout.elems()}, options);
  }
  frozen_ = at::zeros({frozen_elems()}, options);
  std::int64_t frozen_end = 0;
  for (ParameterInfo& info : infos_) {
    at::Tensor flat = frozen_;
    std::int64_t offset = frozen_end;
    if (info.trainable) {
      const FlatGroup& group = groups_[static_cast<std::size_t>(info.group_index)];
      flat = group.values;
      offset = group.layout.tensors()[static_cast<std::size_t>(info.layout_index)].offset;
    } else {
      frozen_end += info.elems;
    }
    at::Tensor leaf = flat.narrow(0, offset, info.elems).view(info.shape);
    leaf.set_requires_grad(info.trainable);
    if (info.trainable) {
      info.trainable_index = static_cast<int>(trainable_tensors_.size());
      trainable_tensors_.push_back(leaf);
    }
    tensors_.push_back(std::move(leaf));
  }
}

std::int64_t ParameterStore::trainable_elems() const { return elems_of(infos_, /*trainable=*/true); }
std::int64_t ParameterStore::frozen_elems() const { return elems_of(infos_, /*trainable=*/false); }

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
  const auto add = [&](const at::Tensor& flat) {
    if (!flat.defined() || flat.numel() == 0) return;
    sum =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(sum) * 31U +
                                  static_cast<std::uint64_t>(flat.view(at::kInt).sum(at::kLong).item<std::int64_t>()));
  };
  for (const FlatGroup& group : groups_) add(group.values);
  add(frozen_);
  return sum;
}

}  // namespace qat

#include "src/train/pass_gradients.h"

#include <ATen/ATen.h>

#include <utility>

#include "kernels/common/error.h"

namespace qat {

PassGradients::PassGradients(const ParameterStore& store, std::span<dist::GradSync> syncs,
                             const std::vector<bool>& used, Hook hook)
    : store_(&store),
      syncs_(syncs),
      used_(used),
      hook_(std::move(hook)),
      places_(static_cast<std::size_t>(store.count())) {
  QAT_CHECK(syncs.size() == store.groups().size() && used.size() == syncs.size(),
            "one exchange for each group of parameters");
  for (const FlatGroup& group : store.groups()) {
    std::vector<int>& open = open_.emplace_back();
    for (const dist::FlatLayout::Bucket& bucket : group.layout.buckets()) open.push_back(bucket.tensors);
  }
}

at::Tensor PassGradients::place(int id) {
  at::Tensor& tensor = at(id).tensor;
  if (tensor.defined()) return tensor;
  const ParameterInfo& info = store_->info(id);
  const auto group = static_cast<std::size_t>(info.group_index);
  QAT_CHECK(used_[group], "a pass at other widths has a gradient of " + info.name);
  const dist::FlatLayout& layout = store_->groups()[group].layout;
  const dist::FlatLayout::Tensor& where = layout.tensors()[static_cast<std::size_t>(info.layout_index)];
  const std::int64_t begin = layout.buckets()[static_cast<std::size_t>(where.bucket)].range.begin;
  float* const leaf = syncs_[group].leaf(where.bucket).data();
  tensor = at::from_blob(leaf + (where.offset - begin), info.shape,
                         at::TensorOptions().dtype(at::kFloat).device(store_->device()));
  return tensor;
}

at::Tensor PassGradients::open(int id) {
  const ParameterInfo& info = store_->info(id);
  if (!info.trainable || at(id).tensor.defined() || !used_[static_cast<std::size_t>(info.group_index)]) return {};
  return place(id);
}

at::Tensor PassGradients::opened(int id) { return at(id).complete ? at::Tensor() : at(id).tensor; }

void PassGradients::written(int id) {
  Place& one = at(id);
  const ParameterInfo& info = store_->info(id);
  QAT_CHECK(one.tensor.defined() && !one.complete, "a gradient is complete in its place once: " + info.name);
  one.complete = true;
  const FlatGroup& group = store_->groups()[static_cast<std::size_t>(info.group_index)];
  const int bucket = group.layout.tensors()[static_cast<std::size_t>(info.layout_index)].bucket;
  if (--open_[static_cast<std::size_t>(info.group_index)][static_cast<std::size_t>(bucket)] == 0)
    commit(info.group_index, bucket);
}

void PassGradients::finish(const std::vector<at::Tensor>& gradients, std::vector<bool>& produced) {
  QAT_CHECK(gradients.size() == store_->trainable_tensors().size(), "one gradient for each trainable parameter");
  produced.resize(gradients.size(), false);
  for (std::size_t g = 0; g < syncs_.size(); ++g) {
    const FlatGroup& group = store_->groups()[g];
    for (const int id : group.ids) {
      const auto i = static_cast<std::size_t>(store_->info(id).trainable_index);
      QAT_CHECK(used_[g] || !gradients[i].defined(),
                "a pass at other widths has a gradient of " + store_->info(id).name);
      QAT_CHECK(!at(id).complete || !gradients[i].defined() ||
                    gradients[i].const_data_ptr() == at(id).tensor.const_data_ptr(),
                "a gradient that was complete came back from elsewhere: " + store_->info(id).name);
      if (at(id).complete || gradients[i].defined()) produced[i] = true;
    }
    if (!used_[g]) continue;
    for (std::size_t bucket = 0; bucket < open_[g].size(); ++bucket)
      if (open_[g][bucket] > 0) fill(group, static_cast<int>(bucket), gradients);
    syncs_[g].end_pass();
  }
}

void PassGradients::fill(const FlatGroup& group, int bucket, const std::vector<at::Tensor>& gradients) {
  const dist::FlatLayout::Bucket& which = group.layout.buckets()[static_cast<std::size_t>(bucket)];
  std::vector<at::Tensor> from, to, without;
  for (int i = which.first_tensor; i < which.first_tensor + which.tensors; ++i) {
    const int id = group.ids[static_cast<std::size_t>(i)];
    if (at(id).complete) continue;
    const at::Tensor& gradient = gradients[static_cast<std::size_t>(store_->info(id).trainable_index)];
    const at::Tensor target = place(id);
    if (!gradient.defined()) {
      without.push_back(target);
    } else if (gradient.const_data_ptr() != target.const_data_ptr()) {
      from.push_back(gradient);
      to.push_back(target);
    }
  }
  {
    const at::NoGradGuard no_grad;
    if (!to.empty()) at::_foreach_copy_(to, from);
    if (!without.empty()) at::_foreach_zero_(without);
  }
  commit(store_->info(group.ids.front()).group_index, bucket);
}

void PassGradients::commit(int group, int bucket) {
  const FlatGroup& one = store_->groups()[static_cast<std::size_t>(group)];
  const dist::FlatLayout::Bucket& which = one.layout.buckets()[static_cast<std::size_t>(bucket)];
  if (hook_)
    for (int i = which.first_tensor; i < which.first_tensor + which.tensors; ++i) {
      const int id = one.ids[static_cast<std::size_t>(i)];
      hook_(id, place(id));
    }
  syncs_[static_cast<std::size_t>(group)].commit(bucket);
}

}  // namespace qat

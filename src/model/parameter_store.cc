#include "src/model/parameter_store.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "dist/grad/norm_block.h"
#include "dist/grad/value_gather.h"
#include "kernels/common/error.h"
#include "src/quant/torch_view.h"

namespace qat {
namespace {

std::int64_t elems_of(const std::vector<ParameterInfo>& infos, bool trainable) {
  std::int64_t sum = 0;
  for (const ParameterInfo& info : infos) sum += info.trainable == trainable ? info.elems : 0;
  return sum;
}

// fp32 elements of a buffer and of all its views: none gives the memory back, and the tensors stay to be filled anew.
void resize_storage(const at::Tensor& buffer, std::int64_t elems) {
  c10::StorageImpl& storage = *buffer.storage().unsafeGetStorageImpl();
  const auto bytes = static_cast<std::size_t>(elems) * sizeof(float);
  if (storage.nbytes() == bytes) return;
  at::DataPtr none(nullptr, buffer.device());
  storage.set_data_ptr_noswap(bytes == 0 ? std::move(none) : storage.allocator()->allocate(bytes));
  storage.set_nbytes(bytes);
}

}  // namespace

int ParameterStore::add(std::string name, std::vector<std::int64_t> shape, GroupKey group, bool trainable, bool decay,
                        bool copy) {
  QAT_CHECK(tensors_.empty(), "parameters are declared before they are allocated");
  const auto id = static_cast<int>(infos_.size());
  group.chunk = chunk_;
  ParameterInfo info{.name = std::move(name),
                     .shape = std::move(shape),
                     .group = group,
                     .trainable = trainable,
                     .decay = decay,
                     .copy = copy};
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
  tensors_.resize(infos_.size());
  for (FlatGroup& group : groups_) {
    // Norms and biases are too few to be worth codes, and suffer most from them.
    const auto rest = std::stable_partition(group.ids.begin(), group.ids.end(), [&](int id) { return info(id).decay; });
    std::vector<std::int64_t> elems;
    for (const int id : group.ids) {
      infos_[static_cast<std::size_t>(id)].layout_index = static_cast<int>(elems.size());
      elems.push_back(info(id).elems);
    }
    std::vector<int> begins;
    for (std::size_t i = 1; i < group.ids.size(); ++i)
      if (info(group.ids[i]).coded != info(group.ids[i - 1]).coded) begins.push_back(static_cast<int>(i));
    group.layout = dist::FlatLayout(elems, {.block = kNormBlock,
                                            .pad_to = pad_to,
                                            .bucket_elems = bucket_elems,
                                            .exact_from = static_cast<int>(rest - group.ids.begin()),
                                            .begins = std::move(begins)});
    others_.emplace_back(group.layout.buckets().size());
    const bool shared_out = group.key.kind == GroupKind::kWidth && me_.ranks > 1;
    if (shared_out) group.own = at::zeros({group.layout.own_elems(me_.ranks)}, options);
    group.values = shared_out ? at::empty({group.layout.elems()}, options) : at::zeros({group.layout.elems()}, options);
    for (std::size_t i = 0; i < group.ids.size(); ++i) {
      const ParameterInfo& one = info(group.ids[i]);
      tensors_[static_cast<std::size_t>(group.ids[i])] =
          group.values.narrow(0, group.layout.tensors()[i].offset, one.elems).view(one.shape);
    }
    // The views stay, to be filled where the group is held.
    if (shared_out) resize_storage(group.values, 0);
  }
  frozen_ = at::zeros({frozen_elems()}, options);
  std::int64_t frozen_end = 0;
  for (std::size_t id = 0; id < infos_.size(); ++id) {
    ParameterInfo& one = infos_[id];
    if (one.trainable) {
      tensors_[id].set_requires_grad(true);
      one.trainable_index = static_cast<int>(trainable_tensors_.size());
      trainable_tensors_.push_back(tensors_[id]);
    } else {
      tensors_[id] = frozen_.narrow(0, frozen_end, one.elems).view(one.shape);
      frozen_end += one.elems;
    }
  }
  for (const FlatGroup& group : groups_) held_.push_back(group.is_sharded() ? Held::kNot : Held::kNewest);
}

void ParameterStore::shard(const RankOf& me) {
  if (me == me_) return;
  QAT_CHECK(me_.ranks == 1 && 0 <= me.rank && me.rank < me.ranks, "parameters are shared out once");
  me_ = me;
  if (tensors_.empty()) return;  // allocate() does the rest
  const at::NoGradGuard no_grad;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    FlatGroup& group = groups_[g];
    if (group.key.kind != GroupKind::kWidth) continue;
    std::vector<at::Tensor> shards;
    for (std::size_t b = 0; b < group.layout.buckets().size(); ++b) {
      const dist::ShardRange shard = group.layout.shard(static_cast<int>(b), me_.rank, me_.ranks);
      shards.push_back(group.values.narrow(0, shard.begin, shard.size()));
    }
    group.own = at::cat(shards);
    resize_storage(group.values, 0);
    held_[g] = Held::kNot;
  }
}

std::vector<std::span<float>> ParameterStore::own_shards(int group) const {
  await_all();
  const FlatGroup& of = groups_.at(static_cast<std::size_t>(group));
  const std::span<float> all = span_of(of.is_sharded() ? of.own : of.values);
  std::vector<std::span<float>> shards;
  for (std::size_t b = 0; b < of.layout.buckets().size(); ++b) {
    const auto bucket = static_cast<int>(b);
    const dist::ShardRange shard = of.layout.shard(bucket, me_.rank, me_.ranks);
    const std::int64_t begin = of.is_sharded() ? of.layout.own_offset(bucket, me_.ranks) : shard.begin;
    shards.push_back(all.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(shard.size())));
  }
  return shards;
}

std::span<float> ParameterStore::own_values(int id, std::int64_t first, std::int64_t elems) const {
  const ParameterInfo& one = info(id);
  const dist::FlatLayout::Tensor& place = group_of(one).layout.tensors()[static_cast<std::size_t>(one.layout_index)];
  const dist::ShardRange shard = group_of(one).layout.shard(place.bucket, me_.rank, me_.ranks);
  const std::int64_t begin = place.offset + first;
  QAT_CHECK(elems == 0 || (shard.begin <= begin && begin + elems <= shard.end), "another rank's part of " + one.name);
  return own_shards(one.group_index)[static_cast<std::size_t>(place.bucket)].subspan(
      static_cast<std::size_t>(begin - shard.begin), static_cast<std::size_t>(elems));
}

void ParameterStore::release_all_but(const std::vector<bool>& wanted) const {
  QAT_CHECK(wanted.size() == groups_.size(), "one word for each group");
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    if (!groups_[g].is_sharded() || wanted[g]) continue;
    (void)tensor(groups_[g].ids.front());  // memory is given back in the current stream's order
    resize_storage(groups_[g].values, 0);
    held_[g] = Held::kNot;
  }
}

bool ParameterStore::needs_room(const std::vector<bool>& wanted) const {
  for (std::size_t g = 0; g < groups_.size(); ++g)
    if (groups_[g].is_sharded() && wanted.at(g) && held_[g] == Held::kNot) return true;
  return false;
}

void ParameterStore::make_room(const std::vector<bool>& wanted) const {
  for (std::size_t g = 0; g < groups_.size(); ++g)
    if (groups_[g].is_sharded() && wanted.at(g)) resize_storage(groups_[g].values, groups_[g].layout.elems());
}

ParameterStore::Others ParameterStore::wanted_of(const FlatGroup& group, int bucket, const CodedValues& codes) const {
  Others wanted;
  if (codes.bits.empty()) return wanted;
  const dist::FlatLayout::Bucket& which = group.layout.buckets()[static_cast<std::size_t>(bucket)];
  for (int t = which.first_tensor; t < which.first_tensor + which.tensors; ++t) {
    const int id = group.ids[static_cast<std::size_t>(t)];
    const int bits = codes.bits[static_cast<std::size_t>(id)];
    if (bits == 0 || !info(id).coded) return {};
    wanted.bits.push_back(bits);
  }
  return wanted;
}

std::int64_t ParameterStore::gather_group(int index, dist::Communicator& comm, const CodedValues& codes) const {
  const at::NoGradGuard no_grad;
  const FlatGroup& group = groups_.at(static_cast<std::size_t>(index));
  QAT_CHECK(!group.is_sharded(), "a group that every rank has");
  QAT_CHECK(codes.bits.empty() || (codes.staging != nullptr && std::ssize(codes.bits) == count()),
            "bits of every parameter, and room for messages");
  std::vector<int> exact, coded;
  std::vector<dist::RowCodes> rows(group.ids.size());
  for (std::size_t b = 0; b < group.layout.buckets().size(); ++b) {
    Others& have = others_[static_cast<std::size_t>(index)][b];
    const Others wanted = wanted_of(group, static_cast<int>(b), codes);
    if (have.newest && (have.bits.empty() || have == wanted)) continue;
    const int first = group.layout.buckets()[b].first_tensor;
    (wanted.bits.empty() ? exact : coded).push_back(static_cast<int>(b));
    for (std::size_t t = 0; t < wanted.bits.size(); ++t) {
      const auto i = static_cast<std::size_t>(first) + t;
      rows[i] = {.cols = info(group.ids[i]).shape.back(), .bits = wanted.bits[t]};
    }
    have = wanted;
  }
  if (exact.empty() && coded.empty()) return 0;
  dist::ValueGather gather(comm, group.layout, begin_sending(group));
  for (const int bucket : exact) gather.exact(bucket, span_of(group.values));
  expect(group, exact);
  if (!coded.empty())
    gather.coded(coded, rows, span_of(group.values), *codes.staging,
                 [&](std::span<const int> sent) { expect(group, sent); });
  return gather.sent_bytes();
}

bool ParameterStore::has_coded(const FlatGroup& group) const {
  return std::any_of(group.ids.begin(), group.ids.end(), [&](int id) { return info(id).coded; });
}

void ParameterStore::reserve_codes(dist::Communicator& comm, dist::WireStaging& staging) const {
  const std::vector<int> any(infos_.size(), 8);
  for (const FlatGroup& group : groups_) {
    if (group.is_sharded()) continue;
    std::vector<int> coded;
    std::vector<dist::RowCodes> rows;
    for (const int id : group.ids) rows.push_back({.cols = info(id).shape.back()});
    for (int b = 0; std::cmp_less(b, group.layout.buckets().size()); ++b)
      if (!wanted_of(group, b, {.bits = any, .staging = &staging}).bits.empty()) coded.push_back(b);
    dist::ValueGather(comm, group.layout, exec_for(group.values)).reserve(coded, rows, staging);
  }
}

void ParameterStore::gather_whole(dist::Communicator& comm) const {
  for (std::size_t g = 0; g < groups_.size(); ++g)
    if (!groups_[g].is_sharded()) (void)gather_group(static_cast<int>(g), comm);
}

std::int64_t ParameterStore::gather(const std::vector<bool>& wanted, dist::Communicator& comm,
                                    const CodedValues& codes) const {
  // Memory first: what one width gives back another takes.
  release_all_but(wanted);
  make_room(wanted);
  return send(wanted, comm, codes);
}

std::int64_t ParameterStore::send(const std::vector<bool>& wanted, dist::Communicator& comm,
                                  const CodedValues& codes) const {
  const at::NoGradGuard no_grad;
  std::int64_t sent = 0;
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const FlatGroup& group = groups_[g];
    if (!wanted.at(g) || !group.is_sharded() || held_[g] == Held::kNewest) continue;
    std::vector<int> buckets;
    for (std::size_t b = 0; b < group.layout.buckets().size(); ++b) {
      const auto bucket = static_cast<int>(b);
      const dist::ShardRange shard = group.layout.shard(bucket, me_.rank, me_.ranks);
      group.values.narrow(0, shard.begin, shard.size())
          .copy_(group.own.narrow(0, group.layout.own_offset(bucket, me_.ranks), shard.size()));
      buckets.push_back(bucket);
    }
    dist::ValueGather gather(comm, group.layout, begin_sending(group));
    for (const int bucket : buckets) gather.exact(bucket, span_of(group.values));
    expect(group, buckets);
    held_[g] = Held::kNewest;
    sent += gather.sent_bytes();
  }
  for (const bool last : {false, true})
    for (std::size_t g = 0; g < groups_.size(); ++g)
      if (wanted[g] && !groups_[g].is_sharded() && has_coded(groups_[g]) == last)
        sent += gather_group(static_cast<int>(g), comm, codes);
  return sent;
}

void ParameterStore::updated(int group) {
  const auto g = static_cast<std::size_t>(group);
  if (groups_.at(g).is_sharded() && held_[g] == Held::kNewest) held_[g] = Held::kOld;
  if (!groups_[g].is_sharded() && me_.ranks > 1)
    for (Others& others : others_[g]) others = {.newest = false};
}

int ParameterStore::find(const std::string& name) const {
  const auto found = std::find_if(infos_.begin(), infos_.end(), [&](const auto& info) { return info.name == name; });
  return found == infos_.end() ? -1 : static_cast<int>(found - infos_.begin());
}

std::int64_t ParameterStore::trainable_elems() const { return elems_of(infos_, /*trainable=*/true); }
std::int64_t ParameterStore::frozen_elems() const { return elems_of(infos_, /*trainable=*/false); }

std::vector<float> ParameterStore::host_values(int id) const {
  const int group = info(id).group_index;
  if (group >= 0) {
    const FlatGroup& of = group_of(info(id));
    const int bucket = of.layout.tensors()[static_cast<std::size_t>(info(id).layout_index)].bucket;
    const auto g = static_cast<std::size_t>(group);
    QAT_CHECK(of.is_sharded() ? held_[g] == Held::kNewest : others_[g][static_cast<std::size_t>(bucket)] == Others(),
              "other ranks' newest values of " + info(id).name + " have been gathered");
  }
  const at::Tensor host = tensor(id).detach().to(at::kCPU).contiguous();
  const std::span<const float> values = const_span(host);
  return {values.begin(), values.end()};
}

void ParameterStore::set_values(int id, std::span<const float> values, std::int64_t first) {
  const ParameterInfo& one = info(id);
  const auto elems = static_cast<std::int64_t>(values.size());
  QAT_CHECK(0 <= first && first + elems <= one.elems, "values beyond the end of " + one.name);
  const at::NoGradGuard no_grad;
  const at::Tensor host =
      at::from_blob(const_cast<float*>(values.data()), {elems}, at::TensorOptions().dtype(at::kFloat));
  if (!one.trainable || !group_of(one).is_sharded()) {
    tensor(id).detach().view(-1).narrow(0, first, elems).copy_(host);
    return;
  }
  const dist::FlatLayout& layout = group_of(one).layout;
  const dist::FlatLayout::Tensor& place = layout.tensors()[static_cast<std::size_t>(one.layout_index)];
  const dist::ShardRange shard = layout.shard(place.bucket, me_.rank, me_.ranks);
  const std::int64_t begin = std::max(place.offset + first, shard.begin);
  const std::int64_t end = std::min(place.offset + first + elems, shard.end);
  if (begin < end)
    group_of(one)
        .own.narrow(0, layout.own_offset(place.bucket, me_.ranks) + begin - shard.begin, end - begin)
        .copy_(host.narrow(0, begin - place.offset - first, end - begin));
  updated(one.group_index);
}

std::int64_t ParameterStore::checksum() const {
  // A sum of 32-bit words: flipping a bit changes it by a power of two.
  std::int64_t sum = 0;
  await_all();
  const auto add = [&](const at::Tensor& flat) {
    if (!flat.defined() || flat.numel() == 0) return;
    sum =
        static_cast<std::int64_t>(static_cast<std::uint64_t>(sum) * 31U +
                                  static_cast<std::uint64_t>(flat.view(at::kInt).sum(at::kLong).item<std::int64_t>()));
  };
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    if (groups_[g].is_sharded()) continue;
    QAT_CHECK(std::all_of(others_[g].begin(), others_[g].end(), [](const Others& one) { return one == Others(); }),
              "all ranks' newest values have been gathered");
    add(groups_[g].values);
  }
  add(frozen_);
  return sum;
}

}  // namespace qat

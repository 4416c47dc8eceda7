// All parameters in a few flat fp32 buffers, so that the optimizer, the gradient exchange and the checkpoint see
// ranges, and the model sees tensors that are views of them.
//
// Where there are several ranks, they share out what single widths have for themselves (shard()): each keeps its shards
// of those groups, and has the tensors only while gather() holds the group for passes at that width. All other groups
// are whole on every rank all the time.
//
// Values may travel beside computing (send_beside()). What is on its way is waited for where its tensor is asked for.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_layout.h"
#include "dist/grad/wire_staging.h"
#include "kernels/common/device_stream.h"
#include "kernels/common/exec.h"

namespace qat {

// What is exchanged and updated together. `kBase` is used at every width; `kShared` is LoRA and layer norms that all
// widths share; `kTied` is an embedding that is the head too: backward begins and ends with it, so that it would hold
// up whatever it shared a bucket with; `kWidth` is what one width has for itself, of which a pass at others makes no
// use.
enum class GroupKind : std::uint8_t { kBase, kShared, kTied, kWidth };

// Chunks of a pipeline's stage share no group: their gradients come and go at different times.
struct GroupKey {
  GroupKind kind = GroupKind::kBase;
  int bits = 0;   // of a kWidth
  int chunk = 0;  // of the stage

  constexpr GroupKey(GroupKind of = GroupKind::kBase, int width = 0)
      : kind(of), bits(width) {}  // NOLINT: a kind is one
  friend bool operator==(const GroupKey&, const GroupKey&) = default;
};

struct ParameterInfo {
  std::string name;                 // GPT-2's usual name
  std::vector<std::int64_t> shape;  // linear weights are [out, in]
  GroupKey group;
  bool trainable = true;
  bool decay = true;   // weight decay applies: matrices, not norms and biases
  bool copy = false;   // another stage answers for it: not in checkpoints, and counted there
  bool coded = false;  // of a linear layer, whose products may read no more of it than codes by row
  std::int64_t elems = 0;
  // Of a trainable parameter: its index among trainable_tensors(), in groups(), and in that group's layout.
  int trainable_index = -1, group_index = -1, layout_index = -1;
};

// The trainable parameters of one group: matrices in order of use, then norms, biases and other vectors in buckets that
// are never encoded (dist/grad/flat_layout.h). A rank answers for its shards of them: it updates those and
// sends them to the others.
struct FlatGroup {
  GroupKey key;
  std::vector<int> ids;     // tensor i of the layout is parameter ids[i]
  dist::FlatLayout layout;  // begins tensors at multiples of kNormBlock
  at::Tensor values;        // [layout.elems()]; zeros between the tensors. Of a shared-out group, while it is held
  at::Tensor own;           // shared-out groups: this rank's shards, bucket after bucket

  bool is_sharded() const { return own.defined(); }
};

// One of the ranks that share out what single widths have for themselves.
struct RankOf {
  int rank = 0;
  int ranks = 1;
  friend bool operator==(const RankOf&, const RankOf&) = default;
};

// How values that a pass reads travel to ranks that do not answer for them.
struct CodedValues {
  std::span<const int> bits{};           // by parameter: products read its codes of so many bits; 0: fp32. Empty: all
  dist::WireStaging* staging = nullptr;  // where messages are built, if there are bits
};

class ParameterStore {
 public:
  // Declares a parameter and returns its id; before allocate() only. The order of declaration is that of use in a
  // forward pass.
  int add(std::string name, std::vector<std::int64_t> shape, GroupKey group, bool trainable, bool decay,
          bool copy = false);
  // What is declared from here on is of that chunk of the stage. Before that, of the first.
  void begin_chunk(int chunk) { chunk_ = chunk; }
  // Products may read codes instead of this trainable matrix: it shares no bucket with what they may not. Before
  // allocate().
  void mark_coded(int id) { infos_.at(static_cast<std::size_t>(id)).coded = true; }
  // Makes the buffers, zeroed. Buckets are multiples of `pad_to` elements.
  void allocate(std::int64_t pad_to, at::Device device = at::kCPU, std::int64_t bucket_elems = dist::kBucketElems);

  std::int64_t count() const { return static_cast<std::int64_t>(infos_.size()); }
  const ParameterInfo& info(int id) const { return infos_.at(static_cast<std::size_t>(id)); }
  const std::vector<ParameterInfo>& infos() const { return infos_; }
  // The parameter of that name, or -1: another stage has it.
  int find(const std::string& name) const;
  // What the current stream is given from now on sees its values as they were sent last.
  const at::Tensor& tensor(int id) const {
    if (is_on_its_way(id)) await(id);
    return tensors_.at(static_cast<std::size_t>(id));
  }

  // This is one of so many ranks, whose number times kNormBlock divides pad_to: from now on the groups of single widths
  // are shared out. Once, before or after values are set; before allocate() no group of a single width is ever whole
  // but where it is held.
  void shard(const RankOf& me);
  // Collective where a group that `wanted` (by groups()) names is shared out, or has been updated(): those groups are
  // held from now on, with their newest values, and the memory of others that are shared out is given back. Where codes
  // give the bits of all parameters of a bucket, other ranks' elements in it are what encodes to the newest values'
  // codes and scales, until something asks for more. Returns the bytes that this rank has sent.
  std::int64_t gather(const std::vector<bool>& wanted, dist::Communicator& comm, const CodedValues& codes = {}) const;
  // From now on values are sent on this stream, and the current one goes on meanwhile. On a CPU they are there when
  // gather() returns all the same. As long as this holds, only one thread at a time asks for tensors. Nothing: values
  // are sent on the current stream.
  void send_beside(std::optional<StreamRef> stream);
  bool is_on_its_way(int id) const { return !arrivals_.empty() && on_its_way_[static_cast<std::size_t>(id)] > 0; }
  // For all values that are on their way. Whatever is to change a rank's own waits for them first.
  void await_all() const;
  // Around each wait of the current stream for values, to measure it; empty: nobody does.
  using AroundWait = std::function<void(const std::function<void()>& wait)>;
  void set_around_wait(AroundWait around) { around_wait_ = std::move(around); }
  // Collective: the newest values of one group, or of all, that is not shared out.
  std::int64_t gather_group(int group, dist::Communicator& comm, const CodedValues& codes = {}) const;
  void gather_whole(dist::Communicator& comm) const;
  // Room for the messages of values that may come as codes, before anything is sent.
  void reserve_codes(dist::Communicator& comm, dist::WireStaging& staging) const;
  // gather() in parts, for ranks that are to agree on whether there is room before they send anything. What the first
  // two do is the same on every rank, and does not fail.
  void release_all_but(const std::vector<bool>& wanted) const;
  bool needs_room(const std::vector<bool>& wanted) const;  // the wanted groups are not all held
  void make_room(const std::vector<bool>& wanted) const;   // memory for them; may be called again
  // Collective as gather(): of groups that there is room for. What products read as codes comes last.
  std::int64_t send(const std::vector<bool>& wanted, dist::Communicator& comm, const CodedValues& codes = {}) const;
  // This rank's shards of a group have been updated: others' are old values until the next gather().
  void updated(int group);
  // By bucket, this rank's shards of a group.
  std::vector<std::span<float>> own_shards(int group) const;
  // Elements [first, first + elems) of a parameter, of which this rank answers for all.
  std::span<float> own_values(int id, std::int64_t first, std::int64_t elems) const;

  std::int64_t trainable_elems() const;  // of parameters, without what lies between them
  std::int64_t frozen_elems() const;
  at::Device device() const { return frozen_.device(); }
  // Those that have trainable parameters.
  const std::vector<FlatGroup>& groups() const { return groups_; }
  // One parameter's values through host memory: for files, initial values and tests. If its group is shared out, it
  // must be held.
  std::vector<float> host_values(int id) const;
  // Elements from `first` on, of which a rank keeps what it has.
  void set_values(int id, std::span<const float> values, std::int64_t first = 0);
  // Of the bits, on the device, of all parameters that every rank has: the same for the same bits, another if any one
  // bit differs.
  std::int64_t checksum() const;

  // The trainable tensors, in order of declaration: what gradients are taken of.
  const std::vector<at::Tensor>& trainable_tensors() const { return trainable_tensors_; }

 private:
  // What a rank has of a shared-out group in `values`: nothing, old values, or the newest.
  enum class Held : std::uint8_t { kNot, kOld, kNewest };

  // What a rank has of other ranks' elements of a bucket, in a group that is not shared out.
  struct Others {
    bool newest = true;
    std::vector<int> bits{};  // by tensor of the bucket: as codes; empty: fp32
    friend bool operator==(const Others&, const Others&) = default;
  };

  const FlatGroup& group_of(const ParameterInfo& info) const {
    return groups_[static_cast<std::size_t>(info.group_index)];
  }
  // Parameters that arrive together.
  struct Arrival {
    std::vector<int> ids;
    DeviceEvent arrived;
  };
  // Where a group's values are sent from here on: behind what the current stream has been given.
  kernels::Exec begin_sending(const FlatGroup& group) const;
  // The group's buckets have been sent.
  void expect(const FlatGroup& group, std::span<const int> buckets) const;
  void await(int id) const;
  bool has_coded(const FlatGroup& group) const;
  // Other ranks' elements of the bucket, as `codes` would have them.
  Others wanted_of(const FlatGroup& group, int bucket, const CodedValues& codes) const;

  std::vector<ParameterInfo> infos_;
  std::vector<at::Tensor> tensors_, trainable_tensors_;
  std::vector<FlatGroup> groups_;
  at::Tensor frozen_;
  int chunk_ = 0;  // of what is declared
  RankOf me_;
  std::optional<StreamRef> beside_;
  AroundWait around_wait_;
  // Of no meaning for others' eyes, who see the same values or none.
  mutable std::vector<Held> held_;                   // by group
  mutable std::vector<std::vector<Others>> others_;  // by group and bucket
  mutable std::vector<Arrival> arrivals_;            // in their order
  mutable std::vector<int> on_its_way_;              // by parameter, in how many of them
};

}  // namespace qat

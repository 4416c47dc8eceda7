// A group's values on all ranks once their owners have updated them: as fp32, or, where all that reads them are
// products on codes, as codes: a quarter of the bytes, an eighth at up to 4 bits.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "dist/comm/communicator.h"
#include "dist/grad/flat_layout.h"
#include "dist/grad/wire_staging.h"
#include "kernels/common/exec.h"
#include "kernels/quant/row_pieces.h"

namespace qat::dist {

// How a tensor's values travel.
struct RowCodes {
  std::int64_t cols = 1;  // it is a matrix of so many columns; a scale a row
  int bits = 0;           // 2..8; 0: fp32
};

class ValueGather {
 public:
  // layout: of the group, in buckets that the ranks of `comm` share out. All outlive this.
  ValueGather(Communicator& comm, const FlatLayout& layout, const kernels::Exec& exec)
      : comm_(comm), layout_(layout), exec_(exec) {}

  // Collective. values: [layout.elems()], of which a rank's shards are the newest; then all of the bucket is.
  void exact(int bucket, std::span<float> values);

  // The most that coded() takes of `staging` for these buckets, whatever their bits. Once that is there coded() does
  // not fail for want of memory on one rank, while the others wait for its messages.
  void reserve(std::span<const int> buckets, std::span<const RowCodes> rows, WireStaging& staging) const;

  // Collective. rows: of every tensor of the layout; those of these buckets have bits. What is a rank's own stays as it
  // is; the rest becomes what encodes to the newest values' codes and scales (kernels/quant/row_pieces.h). Buckets
  // travel in the order in which they are given, as many at a time as batch_elems() says; `sent` is called behind each
  // such batch, when all of it is on the stream. Takes `staging` for a byte an element of a batch, or half of one, and
  // a float a row.
  using Sent = std::function<void(std::span<const int> buckets)>;
  void coded(std::span<const int> buckets, std::span<const RowCodes> rows, std::span<float> values,
             WireStaging& staging, const Sent& sent = {});

  // By this rank, to all others, since this was made.
  std::int64_t sent_bytes() const { return sent_bytes_; }

  // Of whole buckets that are encoded at a time, if there are several. Small batches let the first layers begin before
  // the last ones' weights are there; on many ranks the beginning of a message weighs more than that.
  static constexpr std::int64_t batch_elems(int ranks) { return std::int64_t{ranks <= kFewRanks ? 16 : 64} << 20; }

 private:
  static constexpr int kFewRanks = 8;

  struct Room {
    std::int64_t codes = 0, rows = 0;  // of this rank's shards; of whole matrices
  };
  Room room_for(std::span<const int> buckets, std::span<const RowCodes> rows) const;
  void make_room(const Room& room, kernels::CodeBytes bytes, WireStaging& staging) const;
  // The first of them that are encoded at a time.
  std::span<const int> batch_of(std::span<const int> buckets) const;
  void coded_batch(std::span<const int> buckets, std::span<const RowCodes> rows, std::span<float> values,
                   WireStaging& staging);

  Communicator& comm_;
  const FlatLayout& layout_;
  kernels::Exec exec_;
  std::int64_t sent_bytes_ = 0;
};

}  // namespace qat::dist

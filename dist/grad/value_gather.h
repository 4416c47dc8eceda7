// A group's values on all ranks once their owners have updated them: as fp32, or, where all that reads them are
// products on codes, as codes: a quarter of the bytes, an eighth at up to 4 bits.
#pragma once

#include <cstdint>
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
  // is; the rest becomes what encodes to the newest values' codes and scales (kernels/quant/row_pieces.h). Takes
  // `staging` for a byte an element of up to kBatchElems, or half of one, and a float a row.
  void coded(std::span<const int> buckets, std::span<const RowCodes> rows, std::span<float> values,
             WireStaging& staging);

  // By this rank, to all others, since this was made.
  std::int64_t sent_bytes() const { return sent_bytes_; }

  // Whole buckets that are encoded at a time, if there are several.
  static constexpr std::int64_t kBatchElems = std::int64_t{64} << 20;

 private:
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

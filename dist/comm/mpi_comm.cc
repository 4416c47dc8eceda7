#include "dist/comm/mpi_comm.h"

#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>
#include <vector>

#include "dist/comm/buffer_checks.h"
#include "dist/comm/comm_check.h"
#include "dist/comm/tree_reduce.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

// One membership of an MPI communicator that we made ourselves.
class CommHandle {
 public:
  explicit CommHandle(MPI_Comm comm) : comm_(comm) {}
  CommHandle(CommHandle&& other) noexcept
      : comm_(std::exchange(other.comm_, MPI_COMM_NULL)), exceptions_at_birth_(other.exceptions_at_birth_) {}
  CommHandle& operator=(CommHandle&&) = delete;
  ~CommHandle() {
    // Freeing is collective: while an exception unwinds, the peers may never come.
    if (comm_ == MPI_COMM_NULL || std::uncaught_exceptions() > exceptions_at_birth_) return;
    int finished = 0;
    (void)MPI_Finalized(&finished);
    if (finished == 0) (void)MPI_Comm_free(&comm_);
  }
  MPI_Comm get() const noexcept { return comm_; }

 private:
  MPI_Comm comm_;
  int exceptions_at_birth_ = std::uncaught_exceptions();
};

int to_int(std::int64_t value) {
  QAT_CHECK(value >= 0 && value <= (std::int64_t{1} << 30), "an MPI count is at most 2^30");
  return static_cast<int>(value);
}

class MpiComm final : public Communicator {
 public:
  MpiComm(CommHandle comm, const MpiCommOptions& options) : comm_(std::move(comm)), options_(options) {
    QAT_CHECK(options.segment_bytes >= 8 && options.segment_bytes <= (std::int64_t{1} << 30),
              "segments are 8 B..1 GiB");
    QAT_CHECK(options.small_bytes >= 0 && options.small_bytes <= (1 << 20), "small buffers are at most 1 MiB");
    QAT_MPI_CHECK(MPI_Comm_set_errhandler(comm_.get(), MPI_ERRORS_RETURN));
    QAT_MPI_CHECK(MPI_Comm_rank(comm_.get(), &rank_));
    QAT_MPI_CHECK(MPI_Comm_size(comm_.get(), &size_));
  }

  int rank() const noexcept override { return rank_; }
  int size() const noexcept override { return size_; }
  std::string backend() const override { return "mpi"; }

  void all_reduce(BufferView data, ReduceOp op, StreamRef) override {
    require_all_reduce(data, op);
    if (size_ == 1 || data.elems == 0) return;
    if (static_cast<std::int64_t>(data.bytes()) <= options_.small_bytes) return all_reduce_small(data, op);
    const std::int64_t step = segment_elems(data.dtype);
    for (std::int64_t begin = 0; begin < data.elems; begin += step) {
      all_reduce_segment(at(data.data, begin * width(data.dtype)), std::min(step, data.elems - begin), data.dtype, op);
    }
  }

  void reduce_scatter(ConstBufferView in, BufferView out, ReduceOp op, StreamRef) override {
    require_reduce_scatter(in, out, op, size_);
    const std::int64_t bytes = width(in.dtype);
    const std::int64_t step = std::max<std::int64_t>(1, segment_elems(in.dtype) / size_);
    for (std::int64_t begin = 0; begin < out.elems; begin += step) {
      const std::int64_t elems = std::min(step, out.elems - begin);
      const auto block = [&](int peer) { return at(in.data, (peer * out.elems + begin) * bytes); };
      exchange_and_reduce(
          block, [&](int) { return elems; }, at(out.data, begin * bytes), in.dtype, op);
    }
  }

  void all_gather(ConstBufferView in, BufferView out, StreamRef) override {
    require_all_gather(in, out, size_);
    const auto total = static_cast<std::int64_t>(out.bytes());
    const auto own = static_cast<std::int64_t>(in.bytes());
    std::byte* const place = at(out.data, rank_ * own);
    if (in.data != place && own > 0) std::memmove(place, in.data, in.bytes());
    if (size_ == 1 || own == 0) return;
    if (total <= options_.segment_bytes) {
      QAT_MPI_CHECK(MPI_Allgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, out.data, to_int(own), MPI_BYTE, comm_.get()));
      return;
    }
    // In pieces of every block; a displacement inside `out` may not fit MPI's int, so these go point to point.
    const std::int64_t step = std::max<std::int64_t>(1, options_.segment_bytes / size_);
    for (std::int64_t begin = 0; begin < own; begin += step) {
      const std::int64_t bytes = std::min(step, own - begin);
      exchange_blocks(
          [&](int) {
            return Piece{place + begin, bytes};
          },
          [&](int peer) {
            return Piece{at(out.data, peer * own + begin), bytes};
          });
    }
  }

  void all_to_all(ConstBufferView in, BufferView out, StreamRef) override {
    require_all_to_all(in, out, size_);
    const std::int64_t block = static_cast<std::int64_t>(in.bytes()) / size_;
    if (block == 0) return;
    std::memcpy(at(out.data, rank_ * block), at(in.data, rank_ * block), static_cast<std::size_t>(block));
    const std::int64_t step = std::max<std::int64_t>(1, options_.segment_bytes / size_);
    for (std::int64_t begin = 0; begin < block; begin += step) {
      const std::int64_t bytes = std::min(step, block - begin);
      exchange_blocks(
          [&](int peer) {
            return Piece{at(in.data, peer * block + begin), bytes};
          },
          [&](int peer) {
            return Piece{at(out.data, peer * block + begin), bytes};
          });
    }
  }

  void broadcast(BufferView data, int root, StreamRef) override {
    require_broadcast(data, root, size_);
    for_pieces(data.data, data.bytes(), [&](std::byte* piece, int bytes) {
      QAT_MPI_CHECK(MPI_Bcast(piece, bytes, MPI_BYTE, root, comm_.get()));
    });
  }

  // Long messages travel as several: MPI keeps those of one source and tag in order.
  void exchange(std::span<const SendTo> sends, std::span<const ReceiveFrom> receives, StreamRef) override {
    require_exchange(sends, receives, size_);
    for (const ReceiveFrom& message : receives) {
      for_pieces(message.data.data, message.data.bytes(),
                 [&](std::byte* piece, int bytes) { post_receive(piece, bytes, message.source, message.tag); });
    }
    for (const SendTo& message : sends) {
      for_pieces(const_cast<void*>(message.data.data), message.data.bytes(),
                 [&](std::byte* piece, int bytes) { post_send(piece, bytes, message.destination, message.tag); });
    }
    wait_for_posted();
  }

  void barrier() override { QAT_MPI_CHECK(MPI_Barrier(comm_.get())); }

  std::unique_ptr<Communicator> split(int color, int key) override {
    QAT_CHECK(color >= 0, "colors are not negative");
    MPI_Comm part = MPI_COMM_NULL;
    QAT_MPI_CHECK(MPI_Comm_split(comm_.get(), color, key, &part));
    return std::make_unique<MpiComm>(CommHandle(part), options_);
  }

 private:
  struct Piece {
    std::byte* data;
    std::int64_t bytes;
  };

  // MPI's interface takes what it only reads as const or not, depending on the call: one cast, here.
  static std::byte* at(const void* data, std::int64_t bytes) {
    return static_cast<std::byte*>(const_cast<void*>(data)) + bytes;
  }
  static std::int64_t width(DType dtype) { return static_cast<std::int64_t>(size_of(dtype)); }
  std::int64_t segment_elems(DType dtype) const { return options_.segment_bytes / width(dtype); }

  // piece(pointer, bytes) for consecutive pieces of at most a segment; once, with zero bytes, for an empty buffer.
  template <typename Body>
  void for_pieces(void* data, std::size_t bytes, const Body& piece) const {
    const auto total = static_cast<std::int64_t>(bytes);
    std::int64_t begin = 0;
    do {
      const std::int64_t part = std::min(options_.segment_bytes, total - begin);
      piece(at(data, begin), to_int(part));
      begin += part;
    } while (begin < total);
  }

  // Receives are posted before sends: what comes then finds its place at once. Both are done after wait_for_posted().
  void post_receive(std::byte* data, int bytes, int source, int tag) {
    QAT_MPI_CHECK(MPI_Irecv(data, bytes, MPI_BYTE, source, tag, comm_.get(), &requests_.emplace_back()));
    expected_bytes_.push_back(bytes);
  }
  void post_send(const std::byte* data, int bytes, int destination, int tag) {
    QAT_MPI_CHECK(MPI_Isend(data, bytes, MPI_BYTE, destination, tag, comm_.get(), &requests_.emplace_back()));
  }

  // One by one, which takes no longer: all of them progress meanwhile, and each tells its own error. (Open MPI 4.1's
  // MPI_Waitall was seen to spin for ever after a truncated message.)
  void wait_for_posted() {
    std::vector<MPI_Request> requests = std::exchange(requests_, {});
    const std::vector<int> expected = std::exchange(expected_bytes_, {});
    for (std::size_t i = 0; i < requests.size(); ++i) {
      MPI_Status status;
      QAT_MPI_CHECK(MPI_Wait(&requests[i], &status));
      if (i >= expected.size()) continue;  // a send
      int bytes = 0;
      QAT_MPI_CHECK(MPI_Get_count(&status, MPI_BYTE, &bytes));
      require_received(static_cast<std::size_t>(bytes), static_cast<std::size_t>(expected[i]), status.MPI_SOURCE,
                       rank_);
    }
  }

  // Every rank sends piece outgoing(peer) to each peer and receives into incoming(peer); own pieces are not moved.
  template <typename Outgoing, typename Incoming>
  void exchange_blocks(const Outgoing& outgoing, const Incoming& incoming) {
    for (int distance = 1; distance < size_; ++distance) {
      const int peer = (rank_ + size_ - distance) % size_;
      const Piece piece = incoming(peer);
      post_receive(piece.data, to_int(piece.bytes), peer, kReservedTag);
    }
    for (int distance = 1; distance < size_; ++distance) {  // everyone starts with another peer
      const int peer = (rank_ + distance) % size_;
      const Piece piece = outgoing(peer);
      post_send(piece.data, to_int(piece.bytes), peer, kReservedTag);
    }
    wait_for_posted();
  }

  // Block `peer` of this rank's data, block(peer), holds elems_of(peer) elements: it goes to that peer, and what came
  // for this rank is combined into `out`, which may be block(rank).
  template <typename Block, typename Elems>
  void exchange_and_reduce(const Block& block, const Elems& elems_of, std::byte* out, DType dtype, ReduceOp op) {
    const std::int64_t own_bytes = elems_of(rank_) * width(dtype);
    std::byte* const received = scratch(size_ * own_bytes);
    exchange_blocks(
        [&](int peer) {
          return Piece{block(peer), elems_of(peer) * width(dtype)};
        },
        [&](int peer) {
          return Piece{received + peer * own_bytes, own_bytes};
        });
    std::vector<const void*> inputs;
    for (int peer = 0; peer < size_; ++peer) {
      inputs.push_back(peer == rank_ ? block(rank_) : received + peer * own_bytes);
    }
    tree_reduce(op, dtype, inputs, out, elems_of(rank_));
  }

  void all_reduce_small(BufferView data, ReduceOp op) {
    const auto bytes = static_cast<std::int64_t>(data.bytes());
    std::byte* const gathered = scratch(size_ * bytes);
    QAT_MPI_CHECK(MPI_Allgather(data.data, to_int(bytes), MPI_BYTE, gathered, to_int(bytes), MPI_BYTE, comm_.get()));
    std::vector<const void*> inputs;
    for (int peer = 0; peer < size_; ++peer) inputs.push_back(gathered + peer * bytes);
    tree_reduce(op, data.dtype, inputs, data.data, data.elems);
  }

  void all_reduce_segment(std::byte* data, std::int64_t elems, DType dtype, ReduceOp op) {
    const auto begin = [&](int peer) { return elems * peer / size_; };
    const auto block_elems = [&](int peer) { return begin(peer + 1) - begin(peer); };
    const auto block = [&](int peer) { return data + begin(peer) * width(dtype); };
    exchange_and_reduce(block, block_elems, block(rank_), dtype, op);
    counts_.clear();
    offsets_.clear();
    for (int peer = 0; peer < size_; ++peer) {
      counts_.push_back(to_int(block_elems(peer) * width(dtype)));
      offsets_.push_back(to_int(begin(peer) * width(dtype)));
    }
    QAT_MPI_CHECK(MPI_Allgatherv(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, counts_.data(), offsets_.data(), MPI_BYTE,
                                 comm_.get()));
  }

  // Kept between calls: a fresh allocation of megabytes would be paged in anew for every segment.
  std::byte* scratch(std::int64_t bytes) {
    const std::size_t words = (static_cast<std::size_t>(bytes) + sizeof(std::uint64_t) - 1) / sizeof(std::uint64_t);
    if (scratch_.size() < words) scratch_.resize(words);
    return reinterpret_cast<std::byte*>(scratch_.data());
  }

  CommHandle comm_;
  MpiCommOptions options_;
  int rank_ = 0;
  int size_ = 1;
  std::vector<std::uint64_t> scratch_;  // words, so that any element type is aligned
  std::vector<MPI_Request> requests_;   // posted: first all that receive, then all that send
  std::vector<int> expected_bytes_;     // of those that receive
  std::vector<int> counts_;
  std::vector<int> offsets_;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_world(const MpiSession& /*session*/, const MpiCommOptions& options) {
  MPI_Comm world = MPI_COMM_NULL;
  QAT_MPI_CHECK(MPI_Comm_dup(MPI_COMM_WORLD, &world));
  return std::make_unique<MpiComm>(CommHandle(world), options);
}

}  // namespace qat::dist

#include "src/doctor/known_bad.h"

#include <fmt/format.h>

#include <cstdio>

namespace qat {
namespace {

// Only what this program would meet: one thread calls MPI, with messages between ranks and collectives of host memory;
// NCCL has the world and groups split from it.
constexpr KnownBad kTable[] = {
    {.library = "Open MPI",
     .from = {0, 0, 0},
     .until = {4, 1, 0},
     .what = "older than any that this program was tried with (4.1)",
     .fix = "take Open MPI 4.1.2 or later",
     .source = "its tests"},
    {.library = "Open MPI",
     .from = {4, 1, 0},
     .until = {4, 1, 1},
     .what = "ranks may wait for ever while TCP connects them, and mpirun does not heed --host in an allocation",
     .fix = "take Open MPI 4.1.2 or later",
     .source = "Open MPI's NEWS, 4.1.1"},
    {.library = "Open MPI",
     .from = {4, 1, 0},
     .until = {4, 1, 2},
     .what = "TCP connections get lost, and the ranks of a host may be numbered in another order",
     .fix = "take Open MPI 4.1.2 or later",
     .source = "Open MPI's NEWS, 4.1.2"},
    {.library = "Open MPI",
     .from = {5, 0, 0},
     .until = {5, 0, 2},
     .what = "a program that is started without a launcher may crash",
     .fix = "start with mpirun -np 1, or take Open MPI 5.0.2 or later",
     .source = "Open MPI's NEWS, 5.0.2"},
    {.library = "NCCL",
     .from = {0, 0, 0},
     .until = {2, 12, 7},
     .what = "wrong values arrive where one of a GPU's NVLinks is down",
     .fix = "let LD_LIBRARY_PATH find LibTorch's NCCL first; NCCL_PROTO=^LL128 goes around it",
     .source = "github.com/NVIDIA/nccl/issues/596"},
    {.library = "NCCL",
     .from = {2, 18, 1},
     .until = {2, 18, 3},
     .what = "wrong values may arrive between hosts whose GPUs have a network card each (HGX H100)",
     .fix = "let LD_LIBRARY_PATH find LibTorch's NCCL first; NCCL_PROTO=^LL128 goes around it",
     .source = "NCCL's release notes, 2.18.1"},
    {.library = "NCCL",
     .from = {2, 29, 7},
     .until = {2, 29, 8},
     .what = "a run of many groups of ranks fails where NVSwitch has no more multicast slots",
     .fix = "NCCL_NVLS_ENABLE=0, or LibTorch's own NCCL",
     .source = "github.com/NVIDIA/nccl/issues/2077"},
};

}  // namespace

std::string to_text(const LibraryVersion& version) {
  return fmt::format("{}.{}.{}", version.major, version.minor, version.patch);
}

std::optional<LibraryVersion> open_mpi_version(const std::string& library) {
  LibraryVersion version;
  const int read = std::sscanf(  // NOLINT(cert-err34-c): a version has few digits
      library.c_str(), "Open MPI v%d.%d.%d", &version.major, &version.minor, &version.patch);
  if (read < 2) return std::nullopt;
  return version;
}

std::optional<LibraryVersion> nccl_version(std::int64_t number) {
  if (number <= 0) return std::nullopt;
  const int n = static_cast<int>(number);
  if (n < 10000) return LibraryVersion{n / 1000, n % 1000 / 100, n % 100};  // up to 2.8
  return LibraryVersion{n / 10000, n % 10000 / 100, n % 100};
}

std::vector<const KnownBad*> known_bad(const std::string& library, const LibraryVersion& version) {
  std::vector<const KnownBad*> found;
  for (const KnownBad& one : kTable)
    if (library == one.library && one.from <= version && version < one.until) found.push_back(&one);
  return found;
}

}  // namespace qat

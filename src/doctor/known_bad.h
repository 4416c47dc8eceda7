// Releases of libraries in which something that this program uses is known to be broken, with where that is written.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace qat {

struct LibraryVersion {
  int major = 0, minor = 0, patch = 0;

  auto operator<=>(const LibraryVersion&) const = default;
};

std::string to_text(const LibraryVersion& version);  // "4.1.4"

// Of what MPI_Get_library_version says: "Open MPI v4.1.4". Nothing for other libraries.
std::optional<LibraryVersion> open_mpi_version(const std::string& library);
// As NCCL counts: 22809 is 2.28.9. Nothing for -1.
std::optional<LibraryVersion> nccl_version(std::int64_t number);

struct KnownBad {
  const char* library;         // "Open MPI", "NCCL"
  LibraryVersion from, until;  // `until` is the first release without it
  const char* what;            // goes on "Open MPI 4.1.0: ..."
  const char* fix;
  const char* source;
};

// Those that this release of a library lies in, in the table's order.
std::vector<const KnownBad*> known_bad(const std::string& library, const LibraryVersion& version);

}  // namespace qat

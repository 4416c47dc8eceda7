// QAT_MPI_CHECK: every MPI call goes through it. Internal to mpi_*.cc, which include mpi.h first.
#pragma once

namespace qat::dist {

// Throws Error(kCommunication), or kOutOfMemory if that is what MPI lacks, with the call, the library's text for the
// code, rank, host and place.
[[noreturn]] void throw_mpi_error(int code, const char* call, const char* file, int line);

}  // namespace qat::dist

// A macro only because it must quote the call and its place.
#define QAT_MPI_CHECK(call)                                              \
  do {                                                                   \
    if (const int qat_code = (call); qat_code != MPI_SUCCESS)            \
      ::qat::dist::throw_mpi_error(qat_code, #call, __FILE__, __LINE__); \
  } while (false)

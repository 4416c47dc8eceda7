#include "dist/comm/mpi_session.h"

#include <mpi.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <thread>

#include "dist/comm/comm_check.h"
#include "dist/comm/mpi_launcher.h"
#include "dist/comm/start_hints.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

std::string processor_name() {
  std::array<char, MPI_MAX_PROCESSOR_NAME> name{};
  int length = 0;
  if (MPI_Get_processor_name(name.data(), &length) != MPI_SUCCESS) return "unknown host";
  return {name.data(), static_cast<std::size_t>(length)};
}

// "rank 3 on node7", as far as MPI can still tell.
std::string who_am_i() {
  int started = 0;
  int finished = 0;
  (void)MPI_Initialized(&started);
  (void)MPI_Finalized(&finished);
  if (started == 0 || finished != 0) return "a process without MPI";
  int rank = -1;
  (void)MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  return "rank " + std::to_string(rank) + " on " + processor_name();
}

}  // namespace

void throw_mpi_error(int code, const char* call, const char* file, int line) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) length = 0;
  int kind = MPI_SUCCESS;
  const bool no_memory = MPI_Error_class(code, &kind) == MPI_SUCCESS && kind == MPI_ERR_NO_MEM;
  throw Error(no_memory ? ErrorKind::kOutOfMemory : ErrorKind::kCommunication,
              who_am_i() + ": MPI failed: " + std::string(text.data(), static_cast<std::size_t>(length)) + " (code " +
                  std::to_string(code) + ") in `" + call + "` at " + file + ":" + std::to_string(line));
}

MpiSession::MpiSession(int* argc, char*** argv) : exceptions_at_birth_(std::uncaught_exceptions()) {
  int started = 0;
  QAT_MPI_CHECK(MPI_Initialized(&started));
  if (started != 0) throw Error(ErrorKind::kInternal, "internal error: MPI was started twice");
  require_process_manager();
  require_shared_memory();
  // Other threads exist (the tensor library's), but only this one calls MPI.
  int provided = MPI_THREAD_SINGLE;
  QAT_MPI_CHECK(MPI_Init_thread(argc, argv, MPI_THREAD_FUNNELED, &provided));
  if (provided < MPI_THREAD_FUNNELED) {
    throw Error(
        ErrorKind::kCommunication,
        "this MPI library supports no threads at all: MPI_THREAD_FUNNELED is needed; use one built with threads");
  }
  // The default handler ends the job with MPI's words only; ours throws, and main says what happened.
  QAT_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN));
  QAT_MPI_CHECK(MPI_Comm_set_errhandler(MPI_COMM_SELF, MPI_ERRORS_RETURN));
  QAT_MPI_CHECK(MPI_Comm_rank(MPI_COMM_WORLD, &rank_));
  QAT_MPI_CHECK(MPI_Comm_size(MPI_COMM_WORLD, &size_));
  MPI_Comm host = MPI_COMM_NULL;
  QAT_MPI_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_, MPI_INFO_NULL, &host));
  QAT_MPI_CHECK(MPI_Comm_rank(host, &local_rank_));
  QAT_MPI_CHECK(MPI_Comm_size(host, &local_size_));
  QAT_MPI_CHECK(MPI_Comm_free(&host));
  host_name_ = processor_name();
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_at_birth_) return;
  (void)MPI_Finalize();
}

void MpiSession::leave(int exit_code) const noexcept {
  (void)std::fflush(nullptr);
  (void)MPI_Finalize();
  std::_Exit(exit_code);
}

bool MpiSession::all_arrive(double seconds) const noexcept {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  MPI_Request arrival = MPI_REQUEST_NULL;
  int done = 0;
  if (MPI_Ibarrier(MPI_COMM_WORLD, &arrival) != MPI_SUCCESS) return false;
  while (true) {
    if (MPI_Test(&arrival, &done, MPI_STATUS_IGNORE) != MPI_SUCCESS) return false;
    if (done != 0 || std::chrono::steady_clock::now() > end) return done != 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

void MpiSession::abort(int exit_code) const noexcept {
  (void)MPI_Abort(MPI_COMM_WORLD, exit_code);
  std::_Exit(exit_code);  // MPI_Abort is allowed to return
}

}  // namespace qat::dist

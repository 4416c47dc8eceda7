// What a user needs to know when communication does not start: said with the error, for nothing else runs then.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qat::dist {

// "; network interfaces here: eth0, lo; NCCL_SOCKET_IFNAME is "nope0", which names none of them; ...": this host's
// interfaces, NCCL's variables that concern them, and the size of /dev/shm.
std::string nccl_start_hints();

// What to do about NCCL's last words, where an environment variable leaves it no algorithm for an operation; else
// empty.
std::string nccl_algorithm_hint(std::string_view last_words);

// Whether NCCL_SOCKET_IFNAME's value takes one of these interfaces: a list of prefixes, or of names after "=", and all
// others after "^".
bool selects_interface(std::string_view value, std::span<const std::string> interfaces);

// What of Open MPI's memory is shared by the ranks of one host.
struct SharedMemoryNeed {
  std::string folder;      // empty: the ranks share no memory
  std::int64_t bytes = 0;  // all ranks of this host together
  int ranks = 1;           // of this host
  int local_rank = 0;
};

// From the variables that Open MPI's launcher sets, before MPI_Init.
SharedMemoryNeed shared_memory_need();

// What is wrong if `free_bytes` are left there; empty: nothing.
std::string shared_memory_complaint(const SharedMemoryNeed& need, std::int64_t free_bytes);

// Throws Error(kCommunication) if the ranks of this host share memory and there is not enough: MPI_Init would end the
// process by itself, or a rank would die of SIGBUS in the middle of a run. One rank of the host throws at once; the
// others leave it the time to say so, since its end ends them.
void require_shared_memory();

}  // namespace qat::dist

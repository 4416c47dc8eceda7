#include "dist/comm/start_hints.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "kernels/common/error.h"

namespace qat::dist {
namespace {

constexpr const char* kSharedMemoryFolder = "/dev/shm";

std::string environment(const std::string& name) {
  const char* const text = std::getenv(name.c_str());  // NOLINT(concurrency-mt-unsafe): nobody sets it
  return text == nullptr ? "" : text;
}

// Those that are up, each once.
std::vector<std::string> network_interfaces() {
  std::vector<std::string> names;
  ifaddrs* all = nullptr;
  if (getifaddrs(&all) != 0) return names;
  for (const ifaddrs* one = all; one != nullptr; one = one->ifa_next) {
    const std::string name = one->ifa_name;
    if ((one->ifa_flags & IFF_UP) != 0 && std::find(names.begin(), names.end(), name) == names.end())
      names.push_back(name);
  }
  freeifaddrs(all);
  return names;
}

std::vector<std::string_view> split_at_commas(std::string_view text) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::size_t comma = std::min(text.find(','), text.size());
    if (comma > 0) parts.push_back(text.substr(0, comma));
    text.remove_prefix(std::min(comma + 1, text.size()));
  }
  return parts;
}

std::string joined(const std::vector<std::string>& names) {
  std::string text;
  for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
  return text.empty() ? "none" : text;
}

struct Space {
  std::int64_t free = -1;  // bytes; -1: the folder cannot be asked
  std::int64_t total = -1;
};

Space space_in(const std::string& folder) {
  struct statvfs info = {};
  if (statvfs(folder.c_str(), &info) != 0) return {};
  const auto block = static_cast<std::int64_t>(info.f_frsize);
  return {block * static_cast<std::int64_t>(info.f_bavail), block * static_cast<std::int64_t>(info.f_blocks)};
}

std::string size_text(std::int64_t bytes) {
  constexpr std::int64_t kKiB = 1 << 10, kMiB = 1 << 20;
  return bytes < kMiB ? std::to_string(bytes / kKiB) + " KiB" : std::to_string(bytes / kMiB) + " MiB";
}

// Open MPI's list of transports ("self,vader", "^openib"; empty: all) as far as shared memory is concerned.
bool shares_memory(std::string_view transports) {
  if (transports.empty()) return true;
  const bool excludes = transports.front() == '^';
  if (excludes) transports.remove_prefix(1);
  const auto parts = split_at_commas(transports);
  const bool named = std::any_of(parts.begin(), parts.end(), [](auto part) { return part == "vader" || part == "sm"; });
  return named != excludes;
}

}  // namespace

bool selects_interface(std::string_view value, std::span<const std::string> interfaces) {
  const bool excludes = value.starts_with('^');
  if (excludes) value.remove_prefix(1);
  const bool exact = value.starts_with('=');
  if (exact) value.remove_prefix(1);
  const auto parts = split_at_commas(value);
  if (parts.empty()) return !interfaces.empty();
  return std::any_of(interfaces.begin(), interfaces.end(), [&](const std::string& name) {
    const bool named = std::any_of(parts.begin(), parts.end(),
                                   [&](auto part) { return exact ? name == part : name.starts_with(part); });
    return named != excludes;
  });
}

std::string nccl_start_hints() {
  const std::vector<std::string> interfaces = network_interfaces();
  std::string text = "; network interfaces here: " + joined(interfaces);
  if (const std::string wanted = environment("NCCL_SOCKET_IFNAME"); wanted.empty())
    text += "; if NCCL takes the wrong one, name the right one in NCCL_SOCKET_IFNAME";
  else
    text += "; NCCL_SOCKET_IFNAME is \"" + wanted + "\"" +
            (selects_interface(wanted, interfaces) ? "" : ", which names none of them: unset it or name one");
  for (const char* name : {"NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE"})
    if (const std::string value = environment(name); !value.empty() && value != "0")
      text += std::string("; ") + name + " is " + value;
  if (const Space space = space_in(kSharedMemoryFolder); space.total >= 0)
    text += "; " + std::string(kSharedMemoryFolder) + " has " + size_text(space.free) + " free of " +
            size_text(space.total) +
            " (NCCL takes tens of MiB a GPU where GPUs do not reach each other directly; a "
            "container gets more with --shm-size)";
  return text;
}

std::string nccl_algorithm_hint(std::string_view last_words) {
  if (last_words.find("no algorithm/protocol available") == std::string_view::npos) return "";
  std::string text;
  for (const char* name : {"NCCL_ALGO", "NCCL_PROTO"})
    if (const std::string value = environment(name); !value.empty()) text += "; " + (name + (" is \"" + value)) + "\"";
  return text +
         "; a value without the name of an operation is for all of them, and not every one has that algorithm: name "
         "the "
         "operation, as in NCCL_ALGO=\"allreduce:tree\"";
}

SharedMemoryNeed shared_memory_need() {
  SharedMemoryNeed need;
  need.ranks = std::max(1, std::atoi(environment("OMPI_COMM_WORLD_LOCAL_SIZE").c_str()));
  need.local_rank = std::atoi(environment("OMPI_COMM_WORLD_LOCAL_RANK").c_str());
  const std::string layer = environment("OMPI_MCA_pml");
  if (need.ranks == 1 || !shares_memory(environment("OMPI_MCA_btl")) || (!layer.empty() && layer != "ob1")) return need;
  // `vader` until Open MPI 4, `sm` since.
  std::int64_t segment = std::int64_t{4} << 20;
  need.folder = kSharedMemoryFolder;
  for (const std::string transport : {"vader", "sm"}) {
    if (const std::string set = environment("OMPI_MCA_btl_" + transport + "_segment_size"); !set.empty())
      segment = std::atoll(set.c_str());
    if (const std::string set = environment("OMPI_MCA_btl_" + transport + "_backing_directory"); !set.empty())
      need.folder = set;
  }
  need.bytes = need.ranks * segment;
  return need;
}

std::string shared_memory_complaint(const SharedMemoryNeed& need, std::int64_t free_bytes) {
  if (need.folder.empty() || free_bytes >= need.bytes) return "";
  return need.folder + " has " + size_text(free_bytes) + " free, and " + std::to_string(need.ranks) +
         " ranks on this host need " + size_text(need.bytes) +
         " there: Open MPI passes their messages through it, and a rank that finds it full is killed (SIGBUS). Make it "
         "larger (`mount -o remount,size=1g /dev/shm`; docker: --shm-size=1g), remove what dead jobs have left there, "
         "or "
         "let ranks talk by TCP: `mpirun --mca btl self,tcp`";
}

void require_shared_memory() {
  const SharedMemoryNeed need = shared_memory_need();
  if (need.folder.empty()) return;
  const Space space = space_in(need.folder);
  if (space.free < 0) return;  // no such folder: Open MPI then has another
  const std::string complaint = shared_memory_complaint(need, space.free);
  if (complaint.empty()) return;
  if (need.local_rank != 0) std::this_thread::sleep_for(std::chrono::seconds(5));
  throw Error(ErrorKind::kCommunication, complaint);
}

}  // namespace qat::dist

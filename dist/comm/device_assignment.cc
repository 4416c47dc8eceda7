#include "dist/comm/device_assignment.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <set>

#include "dist/comm/agree.h"
#include "kernels/common/cuda_device.h"

namespace qat::dist {
namespace {

std::string counted(std::size_t count, const char* noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

[[noreturn]] void refuse(std::span<const RankDevices> ranks, const std::string& host) {
  std::vector<int> members;
  std::vector<int> blind;
  std::set<std::string> gpus;
  for (std::size_t rank = 0; rank < ranks.size(); ++rank) {
    if (ranks[rank].host != host) continue;
    members.push_back(static_cast<int>(rank));
    if (ranks[rank].uuids.empty()) blind.push_back(static_cast<int>(rank));
    gpus.insert(ranks[rank].uuids.begin(), ranks[rank].uuids.end());
  }
  const std::string where = "node " + host + ": ";
  if (gpus.empty()) {
    throw AgreedError(ErrorKind::kConfig,
                      where + "no GPU is visible to " + name_ranks(members) +
                          ": check nvidia-smi and CUDA_VISIBLE_DEVICES there, or set the device to \"cpu\"");
  }
  if (!blind.empty()) {
    throw AgreedError(ErrorKind::kConfig, where + name_ranks(blind) + (blind.size() == 1 ? " sees" : " see") +
                                              " no GPU, others do: check CUDA_VISIBLE_DEVICES and how the scheduler "
                                              "hands out GPUs, or set the device to \"cpu\"");
  }
  throw AgreedError(ErrorKind::kConfig, where + counted(members.size(), "rank") + " (" + name_ranks(members) +
                                            ") cannot each have one of " + counted(gpus.size(), "visible GPU") +
                                            " alone: start at most " + counted(gpus.size(), "rank") +
                                            " there (mpirun -np " + std::to_string(gpus.size()) +
                                            " on one node), or set the device to \"cpu\"");
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown host";
  return name.data();
}

// One line for the host and one for each GPU: neither contains line breaks.
std::string to_text(const RankDevices& devices) {
  std::string text = devices.host;
  for (const std::string& uuid : devices.uuids) text += '\n' + uuid;
  return text;
}

RankDevices from_text(const std::string& text) {
  RankDevices devices;
  std::size_t end = text.find('\n');
  devices.host = text.substr(0, end);
  while (end != std::string::npos) {
    const std::size_t begin = end + 1;
    end = text.find('\n', begin);
    devices.uuids.push_back(text.substr(begin, end == std::string::npos ? end : end - begin));
  }
  return devices;
}

}  // namespace

std::vector<int> choose_devices(std::span<const RankDevices> ranks) {
  std::set<std::string> taken;  // uuids name a GPU in the whole world, so nodes need no telling apart
  std::vector<int> choice;
  for (const RankDevices& rank : ranks) {
    const auto free = std::find_if(rank.uuids.begin(), rank.uuids.end(),
                                   [&](const std::string& uuid) { return !taken.contains(uuid); });
    if (free == rank.uuids.end()) refuse(ranks, rank.host);
    taken.insert(*free);
    choice.push_back(static_cast<int>(free - rank.uuids.begin()));
  }
  return choice;
}

RankDevices visible_devices() {
  RankDevices devices{.host = host_name(), .uuids = {}};
  const int count = cuda_device_count();
  for (int device = 0; device < count; ++device) devices.uuids.push_back(cuda_device_info(device).uuid);
  return devices;
}

int assign_local_devices(Communicator& control, const RankDevices& mine) {
  std::vector<RankDevices> ranks;
  for (const std::string& text : gather_strings(control, to_text(mine))) ranks.push_back(from_text(text));
  return choose_devices(ranks)[static_cast<std::size_t>(control.rank())];
}

int assign_local_devices(Communicator& control) {
  // A rank whose driver fails must not leave the others waiting: all learn of it, or all go on.
  RankReport report;
  RankDevices mine;
  try {
    mine = visible_devices();
  } catch (const Error& error) {
    report = {.ok = false, .exit_code = error.exit_code(), .message = error.what()};
  }
  agree(control, report, "list of GPUs");
  return assign_local_devices(control, mine);
}

}  // namespace qat::dist

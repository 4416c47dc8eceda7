#include "dist/watch/directory.h"

#include <sys/random.h>

#include <array>

#include "dist/comm/agree.h"
#include "kernels/common/error.h"

namespace qat::dist {
namespace {

std::string random_token() {
  std::array<char, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size()))
    throw Error(ErrorKind::kCommunication, "the system gives no random bytes for the watchdog's token");
  return {bytes.begin(), bytes.end()};
}

std::string pack(const Participant& p) {
  Packer packer;
  packer.text(p.host).word(static_cast<std::uint64_t>(p.process.pid)).word(static_cast<std::uint64_t>(p.process.start));
  packer.text(p.process_space).text(p.network_space).word(static_cast<std::uint64_t>(p.port)).word(p.addresses.size());
  for (const std::string& address : p.addresses) packer.text(address);
  return packer.take();
}

Participant unpack_participant(const std::string& bytes) {
  Unpacker in(bytes);
  Participant p;
  p.host = in.text();
  p.process.pid = static_cast<std::int64_t>(in.word());
  p.process.start = static_cast<std::int64_t>(in.word());
  p.process_space = in.text();
  p.network_space = in.text();
  p.port = static_cast<int>(in.word());
  for (std::uint64_t count = in.word(); count > 0 && in.ok(); --count) p.addresses.push_back(in.text());
  QAT_CHECK(in.ok(), "a rank's entry in the watchdog's directory");
  return p;
}

}  // namespace

bool Directory::same_machine(int other) const {
  return !me().process_space.empty() && me().process_space == of(other).process_space;
}

std::vector<std::string> Directory::ways_to(int other) const {
  std::vector<std::string> ways;
  if (!me().network_space.empty() && me().network_space == of(other).network_space) ways.emplace_back("127.0.0.1");
  ways.insert(ways.end(), of(other).addresses.begin(), of(other).addresses.end());
  return ways;
}

Meeting meet(Communicator& comm, const std::string& host) {
  const std::string network = network_space();
  bool one_host = !network.empty();
  for (const std::string& other : gather_strings(comm, network)) one_host = one_host && other == network;
  Meeting meeting;
  if (comm.size() > 1) meeting.listener = listen_on_free_port(/*loopback_only=*/one_host);
  const Participant me{.host = host,
                       .process = this_process(),
                       .process_space = process_space(),
                       .network_space = network,
                       .addresses = one_host ? std::vector<std::string>{} : interface_addresses(),
                       .port = meeting.listener.port};
  meeting.directory.rank = comm.rank();
  for (const std::string& entry : gather_strings(comm, pack(me)))
    meeting.directory.ranks.push_back(unpack_participant(entry));
  meeting.directory.token = broadcast_string(comm, comm.rank() == 0 ? random_token() : std::string());
  return meeting;
}

}  // namespace qat::dist

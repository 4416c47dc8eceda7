#include "dist/watch/tcp.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>

namespace qat::dist {
namespace {

constexpr std::uint32_t kLargestFrame = 1U << 20;  // more is not ours
constexpr int kFlags = SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC;

std::string error_text(int code) { return std::generic_category().message(code); }

// Listens at `address` of length `size`; invalid, with errno set, if the system refuses.
Socket listen_at(const sockaddr* address, socklen_t size) {
  Socket socket(::socket(address->sa_family, kFlags, 0));
  if (!socket.valid()) return socket;
  const int off = 0;
  if (address->sa_family == AF_INET6)  // one socket for both kinds of addresses
    (void)setsockopt(socket.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
  if (::bind(socket.get(), address, size) != 0 || ::listen(socket.get(), SOMAXCONN) != 0) return Socket();
  return socket;
}

int port_of(const Socket& socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return 0;
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<const sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<const sockaddr_in&>(address).sin_port);
}

}  // namespace

Socket::Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

Socket& Socket::operator=(Socket&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

Socket::~Socket() {
  if (fd_ >= 0) ::close(fd_);
}

Listener listen_on_free_port(bool loopback_only) {
  Listener listener;
  if (!loopback_only) {
    sockaddr_in6 any{};
    any.sin6_family = AF_INET6;
    any.sin6_addr = in6addr_any;
    listener.socket = listen_at(reinterpret_cast<const sockaddr*>(&any), sizeof any);
  }
  if (!listener.socket.valid()) {  // also machines without IPv6
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(loopback_only ? INADDR_LOOPBACK : INADDR_ANY);
    listener.socket = listen_at(reinterpret_cast<const sockaddr*>(&address), sizeof address);
  }
  if (listener.socket.valid()) {
    listener.port = port_of(listener.socket);
  } else {
    listener.error = error_text(errno);
  }
  return listener;
}

Socket accept_connection(const Socket& listener) {
  return Socket(listener.valid() ? ::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC) : -1);
}

std::vector<std::string> interface_addresses() {
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return {};
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(first, freeifaddrs);
  std::vector<std::string> addresses;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || (at->ifa_flags & IFF_UP) == 0 || (at->ifa_flags & IFF_LOOPBACK) != 0) continue;
    std::array<char, INET6_ADDRSTRLEN> text{};
    const void* bytes = nullptr;
    if (at->ifa_addr->sa_family == AF_INET) {
      bytes = &reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr;
    } else if (at->ifa_addr->sa_family == AF_INET6) {
      const auto& address = reinterpret_cast<const sockaddr_in6*>(at->ifa_addr)->sin6_addr;
      if (!IN6_IS_ADDR_LINKLOCAL(&address)) bytes = &address;  // link-local ones mean nothing on another host
    }
    if (bytes != nullptr && inet_ntop(at->ifa_addr->sa_family, bytes, text.data(), text.size()) != nullptr)
      addresses.emplace_back(text.data());
  }
  return addresses;
}

Socket begin_connect(const std::string& address, int port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV;  // asks no name server
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    errno = EINVAL;
    return Socket();
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, freeaddrinfo);
  Socket socket(::socket(found->ai_family, kFlags, 0));
  if (!socket.valid()) return socket;
  if (::connect(socket.get(), found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS) {
    const int code = errno;
    socket = Socket();
    errno = code;
  }
  return socket;
}

int connect_result(const Socket& socket) {
  int code = 0;
  socklen_t size = sizeof code;
  return getsockopt(socket.get(), SOL_SOCKET, SO_ERROR, &code, &size) == 0 ? code : errno;
}

void Connection::send(FrameType type, std::string_view payload) {
  const auto size = static_cast<std::uint32_t>(payload.size());
  char head[sizeof size];
  std::memcpy(head, &size, sizeof size);
  out_.append(head, sizeof head);
  out_.push_back(static_cast<char>(type));
  out_.append(payload);
  flush();
}

Connection::Connection(Socket socket) : socket_(std::move(socket)) {
  const int on = 1;  // frames are small and must not wait for more
  (void)setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

void Connection::flush() {
  while (!out_.empty()) {
    const ssize_t count = ::send(socket_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
    if (count > 0) {
      out_.erase(0, static_cast<std::size_t>(count));
    } else if (count < 0 && errno == EINTR) {
      continue;
    } else if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
      return;
    } else {
      out_.clear();  // nobody reads it any more; that the connection is gone shows in receive()
    }
  }
}

void Connection::finish_sending() { (void)::shutdown(socket_.get(), SHUT_WR); }

bool Connection::receive() {
  std::array<char, 16384> buffer{};
  while (!nonsense_) {
    const ssize_t count = ::recv(socket_.get(), buffer.data(), buffer.size(), 0);
    if (count > 0) {
      in_.append(buffer.data(), static_cast<std::size_t>(count));
      nonsense_ = in_.size() > 2 * kLargestFrame;
    } else if (count < 0 && errno == EINTR) {
      continue;
    } else {
      return count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
    }
  }
  return false;
}

std::optional<Frame> Connection::next() {
  constexpr std::size_t kHead = sizeof(std::uint32_t) + 1;
  std::uint32_t size = 0;
  if (in_.size() < kHead) return std::nullopt;
  std::memcpy(&size, in_.data(), sizeof size);
  nonsense_ = nonsense_ || size > kLargestFrame;
  if (nonsense_ || in_.size() < kHead + size) return std::nullopt;
  Frame frame{.type = static_cast<FrameType>(in_[sizeof size]), .payload = in_.substr(kHead, size)};
  in_.erase(0, kHead + size);
  return frame;
}

short Connection::poll_events() const { return static_cast<short>(POLLIN | (out_.empty() ? 0 : POLLOUT)); }

}  // namespace qat::dist

// Frames over TCP that never make a thread wait: every call returns at once, and poll() says when there is more.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "dist/watch/frames.h"

namespace qat::dist {

class Socket {
 public:
  explicit Socket(int fd = -1) noexcept : fd_(fd) {}
  Socket(Socket&& other) noexcept;
  Socket& operator=(Socket&& other) noexcept;
  ~Socket();
  int get() const noexcept { return fd_; }
  bool valid() const noexcept { return fd_ >= 0; }

 private:
  int fd_;
};

struct Listener {
  Socket socket;  // invalid: `error` says why
  int port = 0;
  std::string error;
};

// On a port that the system chooses: of the loopback interface alone, or of every interface.
Listener listen_on_free_port(bool loopback_only);
// The next connection; invalid: there is none now.
Socket accept_connection(const Socket& listener);

// Of the interfaces that are up, without loopback: "10.0.0.7", "2001:db8::7".
std::vector<std::string> interface_addresses();

// Begins to connect; an invalid socket, with errno set, where that fails at once.
Socket begin_connect(const std::string& address, int port);
// After poll() found it writable: 0, or the errno of what went wrong.
int connect_result(const Socket& socket);

class Connection {
 public:
  explicit Connection(Socket socket);

  // Queues a frame and sends what the system takes now.
  void send(FrameType type, std::string_view payload = {});
  // The rest of what is queued, as far as the system takes it.
  void flush();
  // Whether all of it is on its way.
  bool flushed() const { return out_.empty(); }
  // Says that nothing more will be sent.
  void finish_sending();

  // Reads what has come. False once the peer has closed or the connection is broken; frames that came before remain.
  bool receive();
  std::optional<Frame> next();

  int fd() const { return socket_.get(); }
  short poll_events() const;

 private:
  Socket socket_;
  std::string out_, in_;
  bool nonsense_ = false;  // what came was not ours
};

}  // namespace qat::dist

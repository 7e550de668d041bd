// One connection of the syscall protocol: messages that take turns, call and questions, answers and result.
#pragma once
#include <optional>
#include <string>
#include <utility>

#include "machine/wire/message.h"
#include "machine/wire/shared_page.h"
#include "machine/wire/syscall_protocol.h"

namespace perdure::wire {

// What a front end says to a question. A descriptor here is sent and stays the sender's.
struct Reply {
  u64 a = 0;
  u64 b = 0;
  u64 c = 0;
  std::vector<std::byte> payload;
  host::Descriptor own;  // sent and closed
  int fd = -1;           // sent, unless there is `own`
};

// Not thread-safe: one thread at a time speaks and listens.
class Channel {
 public:
  // The kernel's socket; waits up to `timeout_ms` for it to appear. Etimedout.
  static Result<Channel> connect(const std::string& socket_path, int timeout_ms);
  explicit Channel(host::Descriptor socket) : socket_(std::move(socket)) {}

  // A front end's, before its first message (connect() does it): messages go through a page of shared memory from now
  // on, where that is possible. Until stop_sharing() the two sides must take turns.
  Result<void> share();
  // Both sides, after the same message: what follows goes through the socket alone.
  void stop_sharing() { page_.reset(); }

  // See wire::send() and wire::receive().
  Result<void> send(const Header& head, std::span<const std::byte> payload = {}, int fd = -1) {
    return page_ ? page_->send(socket_.get(), head, payload, fd) : wire::send(socket_.get(), head, payload, fd);
  }
  Result<Message> receive();
  // Whether there is a message, or the other side's end, within this time. Only poll() on socket() does not tell.
  bool ready(u64 within_ns);

  // A front end's call: answers the kernel's questions with `answer(question) → Result<Reply>` until the result comes.
  // The kernel's error, or Ekilled when it is gone, Eproto.
  template <class Answer>
  Result<Message> call(const Header& head, std::span<const std::byte> payload, Answer answer) {
    TRY(send(head, payload));
    for (;;) {
      Message m = TRY(receive());
      if (m.head.op == static_cast<u32>(Question::Result)) {
        if (m.head.result != 0) return fail(static_cast<Errno>(m.head.result));
        // Events come when they come.
        if (head.op == static_cast<u32>(Call::Events)) stop_sharing();
        return m;
      }
      TRY(reply(answer(m)));
    }
  }
  // Answers one question, or event.
  Result<void> reply(const Result<Reply>& reply);

  // For shutdown(), and for poll(): the other side is gone when it hangs up.
  int socket() const { return socket_.get(); }

 private:
  host::Descriptor socket_;
  std::optional<SharedPage> page_;
};

}  // namespace perdure::wire

// A page of shared memory beside a connection's socket: messages that take turns cross it without a system call while
// both sides are awake.
#pragma once
#include <atomic>
#include <memory>

#include "machine/wire/message.h"

namespace perdure::wire {

// The two sides speak in turns: whoever was the last to speak listens. What the page cannot hold, descriptors and long
// payloads, goes through the socket, and the page only says so; who has listened in vain for a while sleeps on the
// socket, where the other side sends a word when it sees that, and where the other side's end is seen, too.
//
// The page is the other side's to scribble in: everything is copied out once before it is looked at, and it cannot be
// cut short (it is sealed).
class SharedPage {
 public:
  enum class Side : u8 { FrontEnd, Kernel };

  static Result<SharedPage> create();
  // The kernel's side, of a descriptor that somebody sent. Eproto: it is no such page.
  static Result<SharedPage> open(host::Descriptor fd);
  int fd() const { return fd_.get(); }

  Result<void> send(int socket, const Header& head, std::span<const std::byte> payload, int fd);
  Result<Message> receive(int socket);
  // Whether receive() has something to say, within this time.
  bool ready(int socket, u64 within_ns);

 private:
  struct Page;
  struct Unmap {
    void operator()(Page* page) const;
  };
  static Result<SharedPage> map(host::Descriptor fd, Side side);
  SharedPage(host::Descriptor fd, std::unique_ptr<Page, Unmap> page, Side side)
      : fd_(std::move(fd)), page_(std::move(page)), side_(side), may_spin_(may_spin()), credit_(kCredit / 2) {}
  static constexpr unsigned kCredit = 8;
  // On one processor the other side cannot run while this one spins.
  static bool may_spin();
  // Whether there is a message now; waits for one a little, if that has been worth it lately.
  bool spin();
  bool spin_for(u64 ns) const;
  bool spoken() const;
  Result<Message> take(int socket);

  host::Descriptor fd_;
  std::unique_ptr<Page, Unmap> page_;
  Side side_;
  u32 seen_ = 0;  // messages, of both sides
  bool may_spin_;
  unsigned credit_;
  unsigned waits_ = 0;
};

}  // namespace perdure::wire

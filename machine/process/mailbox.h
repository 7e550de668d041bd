// Register accesses of the kernel process, served by the board process: one page of shared memory, a futex each way,
// no spinning.
#pragma once
#include <mutex>
#include <utility>

#include "core/base/machine.h"
#include "machine/host/descriptor.h"

namespace perdure::process {

class Mailbox {
 public:
  // A fresh page; its descriptor goes to the other side. Enomem.
  static Result<Mailbox> create();
  static Result<Mailbox> open(host::Descriptor fd);
  Mailbox(Mailbox&& o) noexcept;
  Mailbox& operator=(Mailbox&&) = delete;
  ~Mailbox();

  struct Request {
    bool write = false;
    Width width = Width::W32;
    u64 address = 0;
    u64 value = 0;
  };

  // Kernel side: asks and waits for the answer. One at a time; callers queue up. All ones when the board is closed.
  u64 transact(const Request& request);

  // Board side: waits for a request; false once closed. Then answer() it.
  bool wait(Request& request);
  void answer(u64 value);
  // Wakes everybody for good.
  void close();
  // A kernel was lost in the middle of a request: the page is free again.
  void reset();

  int fd() const { return fd_.get(); }

 private:
  struct Page;
  Mailbox(host::Descriptor fd, Page* page) : fd_(std::move(fd)), page_(page) {}
  host::Descriptor fd_;
  Page* page_ = nullptr;
  std::mutex mutex_;  // kernel side
};

}  // namespace perdure::process

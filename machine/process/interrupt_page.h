// The processors' interrupt state between board and kernel process: shared memory that belongs to the board, so that
// what a kernel did not take is there for the next one. While a kernel runs every message is counted.
#pragma once
#include <functional>

#include "core/base/machine.h"
#include "machine/host/descriptor.h"

namespace perdure::process {

class InterruptPage {
 public:
  static Result<InterruptPage> create();  // Enomem
  static Result<InterruptPage> open(host::Descriptor fd);
  InterruptPage(InterruptPage&& o) noexcept;
  InterruptPage& operator=(InterruptPage&&) = delete;
  ~InterruptPage();

  // One more message. True: whoever takes them has to be told; false: it was, or (no such vector) nobody has to be.
  bool post(u64 address, u32 data);
  // The same for who takes them himself.
  void mark(u64 address, u32 data);
  // Takes all that is pending: a call for each message.
  void take(const std::function<void(u64 address, u32 data)>& message);

  int fd() const { return fd_.get(); }

 private:
  struct Page;
  InterruptPage(host::Descriptor fd, Page* page) : fd_(std::move(fd)), page_(page) {}
  host::Descriptor fd_;
  Page* page_ = nullptr;
};

}  // namespace perdure::process

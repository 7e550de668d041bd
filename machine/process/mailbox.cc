#include "machine/process/mailbox.h"

#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>

#include "machine/host/host_files.h"

namespace perdure::process {

namespace {
enum Turn : u32 { kIdle, kAsked, kAnswered, kClosed };

void futex_wait(std::atomic<u32>* word, u32 while_equal) {
  syscall(SYS_futex, reinterpret_cast<u32*>(word), FUTEX_WAIT, while_equal, nullptr, nullptr, 0);
}
void futex_wake(std::atomic<u32>* word) {
  syscall(SYS_futex, reinterpret_cast<u32*>(word), FUTEX_WAKE, 1 << 30, nullptr, nullptr, 0);
}
}  // namespace

struct Mailbox::Page {
  std::atomic<u32> turn;
  u32 write;
  u32 width;
  u32 padding;
  u64 address;
  u64 value;
};

Result<Mailbox> Mailbox::create() {
  host::Descriptor fd(memfd_create("perdure-mailbox", MFD_CLOEXEC));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(kPageSize)) != 0) return fail(host::last_error());
  return open(std::move(fd));
}

Result<Mailbox> Mailbox::open(host::Descriptor fd) {
  void* at = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return fail(host::last_error());
  return Mailbox(std::move(fd), static_cast<Page*>(at));
}

Mailbox::Mailbox(Mailbox&& o) noexcept : fd_(std::move(o.fd_)), page_(std::exchange(o.page_, nullptr)) {}

Mailbox::~Mailbox() {
  if (page_) munmap(page_, kPageSize);
}

u64 Mailbox::transact(const Request& request) {
  const std::scoped_lock lock(mutex_);
  if (page_->turn.load(std::memory_order_acquire) == kClosed) return ~u64{0};
  page_->write = request.write ? 1 : 0;
  page_->width = static_cast<u32>(request.width);
  page_->address = request.address;
  page_->value = request.value;
  u32 expected = kIdle;
  if (!page_->turn.compare_exchange_strong(expected, kAsked, std::memory_order_acq_rel)) return ~u64{0};
  futex_wake(&page_->turn);
  for (;;) {
    const u32 turn = page_->turn.load(std::memory_order_acquire);
    if (turn == kAnswered) break;
    if (turn == kClosed) return ~u64{0};
    futex_wait(&page_->turn, turn);
  }
  const u64 value = page_->value;
  expected = kAnswered;
  page_->turn.compare_exchange_strong(expected, kIdle, std::memory_order_acq_rel);
  return value;
}

bool Mailbox::wait(Request& request) {
  for (;;) {
    const u32 turn = page_->turn.load(std::memory_order_acquire);
    if (turn == kClosed) return false;
    if (turn == kAsked) break;
    futex_wait(&page_->turn, turn);
  }
  request = {page_->write != 0, static_cast<Width>(page_->width), page_->address, page_->value};
  return true;
}

void Mailbox::answer(u64 value) {
  page_->value = value;
  u32 expected = kAsked;
  page_->turn.compare_exchange_strong(expected, kAnswered, std::memory_order_acq_rel);
  futex_wake(&page_->turn);
}

void Mailbox::close() {
  page_->turn.store(kClosed, std::memory_order_release);
  futex_wake(&page_->turn);
}

void Mailbox::reset() {
  u32 turn = page_->turn.load(std::memory_order_acquire);
  while (turn != kClosed && !page_->turn.compare_exchange_weak(turn, kIdle, std::memory_order_acq_rel)) {
  }
}

}  // namespace perdure::process

#include "machine/wire/shared_page.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

#include <algorithm>
#include <cstring>

#include "machine/host/host_files.h"

namespace perdure::wire {

namespace {

// Through the socket, and no message: there is something in the page.
constexpr u32 kWake = 0x57414b45;

// A round trip takes a few microseconds while both sides run. Whoever waits longer waits for somebody who sleeps, who
// has something else to do, or who cannot run because this one spins on his processor.
constexpr u64 kSpinNs = 30'000;
// Where spinning was in vain it is tried again now and then, for as long as it takes to wake up the other side: two
// that sleep for each other would never find out that they need not.
constexpr u64 kProbeNs = 200'000;
constexpr unsigned kProbeEvery = 64;
constexpr u64 kPatienceNs = 1'000'000;

u64 now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * 1'000'000'000 + static_cast<u64>(now.tv_nsec);
}

}  // namespace

struct SharedPage::Page {
  enum class Where : u32 { Here, Socket };
  alignas(64) std::atomic<u32> spoken;       // messages so far
  alignas(64) std::atomic<u32> sleeping[2];  // by side
  alignas(64) Where where;
  Header head;
  std::byte payload[kPageSize - 3 * 64 - sizeof(Header)];
};

bool SharedPage::may_spin() {
  cpu_set_t cpus;
  return sched_getaffinity(0, sizeof cpus, &cpus) != 0 || CPU_COUNT(&cpus) > 1;
}

void SharedPage::Unmap::operator()(Page* page) const {
  munmap(page, kPageSize);
}

Result<SharedPage> SharedPage::map(host::Descriptor fd, Side side) {
  static_assert(sizeof(Page) <= kPageSize && std::atomic<u32>::is_always_lock_free);
  void* const at = mmap(nullptr, kPageSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return fail(host::last_error());
  return SharedPage(std::move(fd), std::unique_ptr<Page, Unmap>(static_cast<Page*>(at)), side);
}

Result<SharedPage> SharedPage::create() {
  host::Descriptor fd(memfd_create("perdure-calls", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(kPageSize)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(host::last_error());
  }
  return map(std::move(fd), Side::FrontEnd);
}

Result<SharedPage> SharedPage::open(host::Descriptor fd) {
  struct stat st = {};
  const int seals = fd ? fcntl(fd.get(), F_GET_SEALS) : -1;
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd.get(), &st) != 0 ||
      st.st_size != static_cast<off_t>(kPageSize)) {
    return fail(Errno::Eproto);
  }
  return map(std::move(fd), Side::Kernel);
}

Result<void> SharedPage::send(int socket, const Header& head, std::span<const std::byte> payload, int fd) {
  const bool here = fd < 0 && payload.size() <= sizeof page_->payload;
  page_->where = here ? Page::Where::Here : Page::Where::Socket;
  if (here) {
    Header stamped = head;
    stamped.bytes = static_cast<u32>(payload.size());
    stamped.has_fd = 0;
    page_->head = stamped;
    if (!payload.empty()) std::memcpy(page_->payload, payload.data(), payload.size());
  }
  // Who falls asleep says so before it looks for the last time, and who speaks looks for sleepers after it spoke: one
  // of the two sees the other.
  page_->spoken.store(++seen_, std::memory_order_seq_cst);
  const bool asleep = page_->sleeping[side_ == Side::Kernel ? 0 : 1].exchange(0, std::memory_order_seq_cst) != 0;
  if (!here) return wire::send(socket, head, payload, fd);
  if (asleep) return wire::send(socket, {.op = kWake});
  return {};
}

bool SharedPage::spoken() const {
  return page_->spoken.load(std::memory_order_acquire) != seen_;
}

bool SharedPage::spin_for(u64 ns) const {
  for (const u64 until = now_ns() + ns; now_ns() < until;) {
    for (int i = 0; i < 32; ++i) {
      if (spoken()) return true;
      __builtin_ia32_pause();
    }
  }
  return spoken();
}

bool SharedPage::spin() {
  if (spoken()) return true;
  const bool probe = credit_ == 0;
  if ((probe && ++waits_ % kProbeEvery != 0) || !may_spin_) return false;
  if (!spin_for(probe ? kProbeNs : kSpinNs)) {
    credit_ -= std::min(credit_, 2U);
    return false;
  }
  credit_ = probe ? kCredit / 2 : std::min(credit_ + 1, kCredit);
  return true;
}

Result<Message> SharedPage::receive(int socket) {
  std::atomic<u32>& sleeping = page_->sleeping[side_ == Side::Kernel ? 1 : 0];
  while (!spin()) {
    sleeping.store(1, std::memory_order_seq_cst);
    if (page_->spoken.load(std::memory_order_seq_cst) != seen_) break;
    Message m = TRY(wire::receive(socket));
    if (m.head.op == kWake) continue;
    sleeping.store(0, std::memory_order_relaxed);
    seen_ = page_->spoken.load(std::memory_order_acquire);
    return m;
  }
  sleeping.store(0, std::memory_order_relaxed);
  return take(socket);
}

bool SharedPage::ready(int socket, u64 within_ns) {
  const u64 until = now_ns() + within_ns;
  // Who has that much time is in no hurry, and learns nothing about what spinning is worth.
  if (within_ns > kSpinNs && within_ns < kPatienceNs ? spin() : spoken()) return true;
  std::atomic<u32>& sleeping = page_->sleeping[side_ == Side::Kernel ? 1 : 0];
  for (;;) {
    sleeping.store(1, std::memory_order_seq_cst);
    if (page_->spoken.load(std::memory_order_seq_cst) != seen_) return true;
    const u64 now = now_ns();
    if (now >= until) return false;
    const timespec rest = {.tv_sec = static_cast<time_t>((until - now) / 1'000'000'000),
                           .tv_nsec = static_cast<long>((until - now) % 1'000'000'000)};
    pollfd p = {socket, POLLIN, 0};
    if (ppoll(&p, 1, &rest, nullptr) <= 0) continue;
    Header head;
    if (recv(socket, &head, sizeof head, MSG_PEEK | MSG_DONTWAIT) != sizeof head || head.op != kWake) return true;
    // A word that was said to us earlier, or just now: then there is something in the page.
    (void)recv(socket, &head, sizeof head, MSG_DONTWAIT);
  }
}

Result<Message> SharedPage::take(int socket) {
  seen_ = page_->spoken.load(std::memory_order_acquire);
  if (page_->where != Page::Where::Here) {
    for (;;) {
      Message m = TRY(wire::receive(socket));
      if (m.head.op != kWake) return m;
    }
  }
  Message m;
  m.head = page_->head;
  if (m.head.bytes > sizeof page_->payload || m.head.has_fd != 0) return fail(Errno::Eproto);
  m.payload.assign(page_->payload, page_->payload + m.head.bytes);
  return m;
}

}  // namespace perdure::wire

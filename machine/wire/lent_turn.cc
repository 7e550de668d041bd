#include "machine/wire/lent_turn.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "machine/host/host_files.h"

namespace perdure::wire {

namespace {
constexpr usize kBytes = 4096;
}

struct LentTurn::Page {
  std::atomic<u64> progress;
  std::atomic<u32> unwatched;
  std::atomic<u32> revoked;
};

void LentTurn::Unmap::operator()(Page* page) const {
  munmap(page, kBytes);
}

Result<LentTurn> LentTurn::map(host::Descriptor fd) {
  static_assert(sizeof(Page) <= kBytes && std::atomic<u64>::is_always_lock_free);
  void* const at = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0);
  if (at == MAP_FAILED) return fail(host::last_error());
  return LentTurn(std::move(fd), std::unique_ptr<Page, Unmap>(static_cast<Page*>(at)));
}

Result<LentTurn> LentTurn::create() {
  host::Descriptor fd(memfd_create("perdure-turn", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ftruncate(fd.get(), static_cast<off_t>(kBytes)) != 0 ||
      fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(host::last_error());
  }
  return map(std::move(fd));
}

Result<LentTurn> LentTurn::open(host::Descriptor fd) {
  struct stat st = {};
  const int seals = fd ? fcntl(fd.get(), F_GET_SEALS) : -1;
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd.get(), &st) != 0 ||
      st.st_size != static_cast<off_t>(kBytes)) {
    return fail(Errno::Eproto);
  }
  return map(std::move(fd));
}

void LentTurn::lend() const {
  page_->unwatched.store(0);
  page_->revoked.store(0);
}

void LentTurn::revoke() const {
  page_->revoked.store(1);
}

u64 LentTurn::progress() const {
  return page_->progress.load();
}

// Who looks away says so before it looks for the last time, and who begins looks for a watcher after it began: one of
// the two sees the other.
bool LentTurn::look_away(u64 last) const {
  page_->unwatched.store(1);
  return page_->progress.load() == last;
}

bool LentTurn::revoked() const {
  return page_->revoked.load() != 0;
}

bool LentTurn::begin() const {
  page_->progress.fetch_add(1);
  return page_->unwatched.exchange(0) != 0;
}

void LentTurn::end() const {
  page_->progress.fetch_add(1);
}

}  // namespace perdure::wire

#include "core/iommufd/account.h"

namespace perdure::iommufd {

namespace {

// Adds unless the sum is beyond the limit.
bool add_up_to(std::atomic<u64>& counter, u64 pages, u64 limit) {
  u64 now = counter.load(std::memory_order_relaxed);
  do {
    if (pages > limit || now > limit - pages) return false;
  } while (!counter.compare_exchange_weak(now, now + pages, std::memory_order_relaxed));
  return true;
}

std::atomic<u64>* limited_counter(const Payer& payer) {
  switch (payer.mode) {
    case Accounting::User: return &payer.user->pages();
    case Accounting::Process: return &payer.process->locked_counter();
    case Accounting::None: break;
  }
  return nullptr;
}

}  // namespace

Result<void> Payer::charge(Task& via, u64 pages) const {
  if (pages == 0) return {};
  if (std::atomic<u64>* const counter = limited_counter(*this)) {
    if (!add_up_to(*counter, pages, process->memlock_limit(via) / kPageSize)) return fail(Errno::Enomem);
  }
  process->pinned_counter().fetch_add(pages, std::memory_order_relaxed);
  return {};
}

void Payer::charge_again(u64 pages) const {
  if (std::atomic<u64>* const counter = limited_counter(*this)) counter->fetch_add(pages, std::memory_order_relaxed);
  process->pinned_counter().fetch_add(pages, std::memory_order_relaxed);
}

void Payer::refund(u64 pages) const {
  if (std::atomic<u64>* const counter = limited_counter(*this)) counter->fetch_sub(pages, std::memory_order_relaxed);
  process->pinned_counter().fetch_sub(pages, std::memory_order_relaxed);
}

void UserAccount::on_last_ref() {
  MutexGuard guard(accounts_.lock_);
  if (node_.linked()) node_.unlink();
}

// One whose last reference is gone may still be in the list, on its way out.
Ref<UserAccount> Accounts::find_locked(u32 uid) const {
  for (UserAccount& user : users_) {
    if (user.uid() == uid && user.try_get_ref()) return Ref<UserAccount>::adopt(&user);
  }
  return nullptr;
}

Result<Payer> Accounts::payer(Task& task, Accounting mode) {
  Payer payer;
  payer.process = TRY(task.process());
  payer.mode = task.creds().cap_ipc_lock ? Accounting::None : mode;
  const u32 uid = task.creds().uid;
  {
    MutexGuard guard(lock_);
    payer.user = find_locked(uid);
  }
  if (payer.user) return payer;
  Ref<UserAccount> fresh = TRY(heap_.make_ref<UserAccount>(*this, uid));
  MutexGuard guard(lock_);
  payer.user = find_locked(uid);
  if (!payer.user) {
    users_.push_back(*fresh);
    payer.user = fresh;
  }
  return payer;
}

u64 Accounts::pinned_by(u32 uid) const {
  MutexGuard guard(lock_);
  for (UserAccount& candidate : users_) {
    if (candidate.uid() == uid) return candidate.pages().load(std::memory_order_relaxed);
  }
  return 0;
}

}  // namespace perdure::iommufd

// Who is charged for pinned memory, and up to which limit (uapi §2.4).
#pragma once
#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/file/task.h"
#include "core/mem/heap.h"

namespace perdure::iommufd {

// The user, or the mapper's process as if it had locked the memory. Who may lock any amount (cap_ipc_lock) is not
// limited at all.
enum class Accounting : u8 { User, Process, None };

class Accounts;

// What one user has pinned through all of its contexts.
class UserAccount final : public RefCounted {
 public:
  UserAccount(Accounts& accounts, u32 uid) : accounts_(accounts), uid_(uid) {}
  u32 uid() const { return uid_; }
  std::atomic<u64>& pages() { return pages_; }

 private:
  friend class Accounts;
  void on_last_ref() override;
  Accounts& accounts_;
  const u32 uid_;
  std::atomic<u64> pages_{0};
  ListNode node_;
};

// Whom a mapping is charged to: decided when it is made, or by IOAS_CHANGE_PROCESS.
struct Payer {
  Ref<Process> process;
  Ref<UserAccount> user;
  Accounting mode = Accounting::None;

  // Enomem: beyond RLIMIT_MEMLOCK of the process. `via` as Process says.
  Result<void> charge(Task& via, u64 pages) const;
  // What was paid before is paid again; limits do not matter.
  void charge_again(u64 pages) const;
  void refund(u64 pages) const;
};

// The users' accounts, which last as long as somebody of the user is charged, or may be.
class Accounts {
 public:
  explicit Accounts(Heap& heap) : heap_(heap) {}
  Accounts(const Accounts&) = delete;
  Accounts& operator=(const Accounts&) = delete;

  // The caller, by the mode of its context. Enomem, and what Task::process() says.
  Result<Payer> payer(Task& task, Accounting mode);
  // What the user has pinned, in pages, where users are charged.
  u64 pinned_by(u32 uid) const;

 private:
  friend class UserAccount;
  Ref<UserAccount> find_locked(u32 uid) const REQUIRES(lock_);
  Heap& heap_;
  mutable Mutex lock_{LockRank::Leaf};
  List<UserAccount, &UserAccount::node_> users_ GUARDED_BY(lock_);
};

}  // namespace perdure::iommufd

// A session of this kernel: files that shall survive the next jump.
#pragma once
#include "core/kho/blocks.h"
#include "core/luo/file_record.h"
#include "core/luo/status.h"

namespace perdure {
class Task;
}

namespace perdure::luo {

class Luo;

class OutgoingSession final : public RefCounted, public Session {
 public:
  OutgoingSession(Luo& luo, std::string_view name, u64 generation);

  // --- for its file -----------------------------------------------------------------------------------------------
  // Preserves the file behind `fd` of the task under `token` (kho-luo §2.5). Eexist: token in use; Enospc, Enomem;
  // Ebadf; Enoent: nobody can preserve such a file; Ebusy: it is preserved already, in this session or another; else
  // what its handler or an FLB says. Undone whole on failure. Ekilled.
  Result<void> preserve(Task& task, s32 fd, u64 token);
  // The last close: everything is unpreserved, newest first, and the session vanishes. After a freeze it waits for the
  // jump, or for the freeze to be undone.
  void close();

  // --- for Luo::serialize() and its undoing -------------------------------------------------------------------------
  // Freezes all files, oldest first, and writes them. On failure those that froze are unfrozen, oldest first.
  Result<void> freeze(SessionSer& slot);
  void unfreeze();
  bool frozen() const { return frozen_; }
  bool orphaned() const { return orphaned_; }
  void describe(SessionVisitor& visitor) const;

  // --- Session ------------------------------------------------------------------------------------------------------
  Result<u64> token_of(File& file) const override;
  Result<Ref<File>> file_of(u64 token) override;
  std::string_view name() const override { return text_of(name_); }
  u64 generation() const override { return generation_; }

  ListNode node;
  HashLink<OutgoingSession> by_name;

 private:
  Result<void> preserve_locked(Task& task, s32 fd, u64 token, Ref<File>& file) REQUIRES(lock_);
  void unpreserve_all_locked(Finished& finished) REQUIRES(lock_);
  void unfreeze_before_locked(const FileRecord* end) REQUIRES(lock_);

  Luo& luo_;
  char name_[kNameSize] = {};
  const u64 generation_;
  mutable Mutex lock_{LockRank::LuoSession};
  FileList files_ GUARDED_BY(lock_);
  TokenIndex tokens_ GUARDED_BY(lock_);
  u64 count_ GUARDED_BY(lock_) = 0;
  kho::BlockSet blocks_ GUARDED_BY(lock_);
  // Under Luo's list lock.
  friend class Luo;
  bool frozen_ = false;
  bool orphaned_ = false;  // closed while frozen
};

}  // namespace perdure::luo

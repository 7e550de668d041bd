// A session that a former kernel left.
#pragma once
#include "core/kho/blocks.h"
#include "core/luo/file_record.h"
#include "core/luo/status.h"

namespace perdure::luo {

class Luo;

class IncomingSession final : public RefCounted, public Session {
 public:
  enum class State : u8 {
    Listed,     // waits to be retrieved; goes on into the next update if nobody does
    Retrieved,  // in somebody's hands
    Finished,
    Zombie,  // closed while a file could not be finished
  };

  IncomingSession(Luo& luo, const SessionSer& entry, u64 generation, u64 next_generation);
  ~IncomingSession() override;

  // Reads the files of the session. What is wrong with the list as a whole makes the session broken: it can be
  // retrieved and finished, but has no files. Enomem.
  Result<void> load(const SessionSer& entry);

  // --- for its file -----------------------------------------------------------------------------------------------
  // Enoent: no such token; Eio: the session is broken; else the handler's error, now or the first time. Ekilled.
  Result<Ref<File>> retrieve(u64 token);
  // Ebusy: some file is not ready, and nothing is finished. A second time: nothing to do. Ekilled.
  Result<void> finish();
  // The last close: finishes what can be finished. A session that cannot be stays as a zombie.
  void close();

  // --- for Luo
  // -------------------------------------------------------------------------------------------------------- Listed →
  // Retrieved; Einval when it is in somebody's hands already, or a zombie.
  Result<void> claim();
  // The claim came to nothing.
  void unclaim();
  State state() const;
  void describe(SessionVisitor& visitor) const;
  bool broken() const { return broken_; }
  // Tries again to finish a zombie. True: it is finished.
  bool settle(Finished& finished);
  // Hands all files on to the next kernel and writes them. Undone whole on failure, with the reason logged.
  Result<void> forward(SessionSer& slot);
  void unforward();
  bool forwarded() const { return forwarded_; }
  bool orphaned() const { return orphaned_; }

  // --- Session ------------------------------------------------------------------------------------------------------
  Result<u64> token_of(File& file) const override;
  Result<Ref<File>> file_of(u64 token) override;
  std::string_view name() const override { return text_of(name_); }
  u64 generation() const override { return generation_; }
  u64 next_generation() const override { return next_generation_; }

  ListNode node;

 private:
  Result<void> load_file(const FileSer& entry) REQUIRES(lock_);
  Result<Ref<File>> retrieve_locked(u64 token) REQUIRES(lock_);
  Result<void> finish_locked(Finished& finished) REQUIRES(lock_);
  HandlerEntry* handler_of_locked(FileRecord& record) REQUIRES(lock_);
  void unforward_before_locked(const FileRecord* end) REQUIRES(lock_);

  Luo& luo_;
  char name_[kNameSize] = {};
  const u64 generation_;
  const u64 next_generation_;
  mutable Mutex lock_{LockRank::LuoSession};
  State state_ GUARDED_BY(lock_) = State::Listed;
  FileList files_ GUARDED_BY(lock_);
  TokenIndex tokens_ GUARDED_BY(lock_);
  bool broken_ = false;                     // set while loading only
  kho::BlockSet blocks_ GUARDED_BY(lock_);  // for forwarding
  // Under Luo's list lock.
  friend class Luo;
  bool forwarded_ = false;
  bool orphaned_ = false;
};

}  // namespace perdure::luo

// Who can preserve what: file handlers, and the shared states (FLBs) that hang on them.
#pragma once
#include "core/base/list.h"
#include "core/luo/file_handler.h"
#include "core/luo/format.h"
#include "core/mem/vec.h"

namespace perdure::luo {

struct FlbEntry {
  explicit FlbEntry(Flb& f) : flb(f) {}
  Flb& flb;
  ListNode node;
  u32 links = 0;  // handlers
  // Outgoing: references of preserved files and of get_outgoing().
  u64 refs = 0;
  u64 data = 0;
  // Incoming.
  enum class State : u8 { Unknown, Live, Failed, Finished };
  State state = State::Unknown;
  Errno error = Errno::Eio;  // Failed
  u64 gets = 0;
};

struct HandlerEntry {
  HandlerEntry(Heap& heap, FileHandler& h) : handler(h), flbs(heap) {}
  FileHandler& handler;
  ListNode node;
  Vec<FlbEntry*> flbs;  // in the order of linking
  u64 users = 0;        // file records that name it
};

class Registry {
 public:
  explicit Registry(Heap& heap) : heap_(heap), received_(heap), dependents_(heap) {}
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  // --- handlers -------------------------------------------------------------------------------------------------
  // Einval: no name, or too long; Eexist; Enomem.
  Result<void> add(FileHandler& handler);
  // Enoent; Ebusy while a session has a file of it. Drops its links.
  Result<void> remove(FileHandler& handler);
  // For a file to preserve, or by the name in an image; counted as a user until put(). Null: nobody.
  HandlerEntry* get_for(File& file);
  HandlerEntry* get_named(std::string_view compatible);
  void put(HandlerEntry& entry);

  // --- shared state -----------------------------------------------------------------------------------------------
  // Enoent: handler not registered; Eexist: linked already, or another FLB has the name; Einval: name; Enospc; Enomem.
  Result<void> link(FileHandler& handler, Flb& flb);
  // One more file of the handler: preserves or references all its FLBs in order; undone whole on failure.
  Result<void> preserve(HandlerEntry& entry);
  // Reverse order.
  void unpreserve(HandlerEntry& entry);
  // For those who need the outgoing state while it lives. Enoent: no file depends on it now.
  Result<void> get_outgoing(Flb& flb);
  void put_outgoing(Flb& flb);
  // Writes those in use, in the order of registration, after their freeze(). Nothing is written on failure.
  Result<void> serialize(FlbHeader& page);

  // --- what the former kernel left ----------------------------------------------------------------------------------
  // One entry of the received page.
  Result<void> received(const FlbSer& entry);
  // The page could not be read.
  void received_nothing() { received_broken_ = true; }
  // Enoent: none of that name; Eproto: the page was unreadable.
  Result<u64> received_data(std::string_view compatible) const;
  // A file of this handler arrived; each ends with finished().
  Result<void> arrived(std::string_view compatible);
  // A file ended: FLBs whose last dependent it was are finished, in reverse order of linking.
  void finished(std::string_view compatible);
  // Enoent, Enodata when finished already; else the FLB's own error, now or the first time.
  Result<void> get_incoming(Flb& flb);
  void put_incoming(Flb& flb);

 private:
  struct Dependents {
    char compatible[kCompatibleSize] = {};
    u64 files = 0;
  };
  HandlerEntry* find_locked(std::string_view compatible) REQUIRES(lock_);
  FlbEntry* find_flb_locked(const Flb& flb) REQUIRES(lock_);
  void drop_outgoing_locked(FlbEntry& entry) REQUIRES(lock_, flb_lock_);
  u64 dependents_locked(const FlbEntry& entry) REQUIRES(lock_);
  void finish_if_last_locked(FlbEntry& entry) REQUIRES(lock_, flb_lock_);
  const FlbSer* received_entry(std::string_view compatible) const;

  Heap& heap_;
  mutable Mutex lock_{LockRank::LuoRegistry};
  Mutex flb_lock_{LockRank::LuoFlb};  // states of all FLBs, and held during their callbacks
  List<HandlerEntry, &HandlerEntry::node> handlers_ GUARDED_BY(lock_);
  List<FlbEntry, &FlbEntry::node> flbs_ GUARDED_BY(lock_);
  // Written while the kernel boots, before anybody else looks.
  Vec<FlbSer> received_;
  bool received_broken_ = false;
  Vec<Dependents> dependents_ GUARDED_BY(lock_);
};

}  // namespace perdure::luo

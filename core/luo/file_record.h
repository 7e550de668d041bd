// One preserved file of a session, in either kernel.
#pragma once
#include "core/luo/hash_index.h"
#include "core/luo/registry.h"

namespace perdure::luo {

struct FileRecord {
  FileRecord(Heap& h, u64 t) : heap(h), token(t) {}
  Heap& heap;
  ListNode node;                  // in the order of preservation
  HashLink<FileRecord> by_token;  // in its session
  HashLink<FileRecord> by_id;     // in LUO, while the file is somebody's
  u64 token;
  HandlerEntry* handler = nullptr;  // incoming: once somebody needed it
  Ref<File> file;                   // incoming: set when retrieve_status is 1
  Ref<File> discard;                // of a failed retrieve
  u64 id = 0;                       // the handler's, valid while in the index
  bool indexed = false;
  u64 data = 0;
  void* private_data = nullptr;
  // Incoming.
  char compatible[kCompatibleSize] = {};
  int retrieve_status = 0;
  bool retrieving = false;  // a file that needs itself is told so
  u64 forwarded_data = 0;

  FileState state(Session& session) {
    return {session, token, file.get(), data, private_data, retrieve_status, nullptr};
  }
  // What a callback may have changed.
  void take(FileState& s) {
    data = s.data;
    private_data = s.private_data;
    if (s.discard) discard = std::move(s.discard);
  }
};

using FileList = List<FileRecord, &FileRecord::node>;
using TokenIndex = HashIndex<FileRecord, &FileRecord::by_token>;

// Records that are done with. Ends them, and with them the references to their files, only when it goes out of
// scope: declare it before any lock is taken, since a last close runs without locks.
class Finished {
 public:
  Finished() = default;
  Finished(const Finished&) = delete;
  Finished& operator=(const Finished&) = delete;
  ~Finished() {
    while (FileRecord* r = records_.pop_front()) Owned<FileRecord>(r->heap, r).reset();
  }
  void take(FileRecord& record) { records_.push_back(record); }

 private:
  FileList records_;
};

// Which objects are in any session, so that none is in two.
class ObjectIndex {
 public:
  explicit ObjectIndex(Heap& heap) : index_(heap) {}

  // Ebusy: another record has this object.
  Result<void> add(FileRecord& record, u64 id) {
    MutexGuard guard(lock_);
    const auto same = [&](const FileRecord& r) {
      return r.id == id && &r.handler->handler == &record.handler->handler;
    };
    if (index_.find(id, same) != nullptr) return fail(Errno::Ebusy);
    record.id = id;
    record.indexed = true;
    index_.insert(record, id);
    return {};
  }
  void remove(FileRecord& record) {
    MutexGuard guard(lock_);
    if (!record.indexed) return;
    index_.remove(record);
    record.indexed = false;
  }

 private:
  Mutex lock_{LockRank::LuoFile};
  HashIndex<FileRecord, &FileRecord::by_id> index_ GUARDED_BY(lock_);
};

}  // namespace perdure::luo

// The kernel's objects for host files: one SharedMemory for each memfd, one EventFd for each eventfd, however
// many descriptors and programs name it. Does not keep them alive; must outlive them.
#pragma once
#include "core/file/shared_memory.h"

namespace perdure {

class HostFiles {
 public:
  explicit HostFiles(Heap& heap) : heap_(heap) {}
  ~HostFiles();  // every file must have been closed
  HostFiles(const HostFiles&) = delete;
  HostFiles& operator=(const HostFiles&) = delete;

  // The file over this memory: the one there is for its id, or a new one. Enomem.
  Result<Ref<SharedMemory>> memory(Ref<HostMemory> host);
  Result<Ref<EventFd>> event(Ref<HostEvent> host);
  // The same without making one: null if no file with this id is open.
  Ref<SharedMemory> find_memory(u64 id);

 private:
  friend class SharedMemory;
  friend class EventFd;
  static constexpr usize kBuckets = 64;

  template <class T>
  struct Table {
    T* buckets[kBuckets] = {};
    static usize bucket_of(u64 id) { return (id * 0x9e3779b97f4a7c15) >> 58; }
    Ref<T> find(u64 id) const;
    void insert(T& file);
    void remove(T& file);
    bool empty() const;
  };
  // The last reference of the file is gone.
  void forget(SharedMemory& file);
  void forget(EventFd& file);

  Heap& heap_;
  // Never held together with a file's own lock, which has the same rank.
  Mutex lock_{LockRank::Files};
  Table<SharedMemory> memories_ GUARDED_BY(lock_);
  Table<EventFd> events_ GUARDED_BY(lock_);
};

}  // namespace perdure

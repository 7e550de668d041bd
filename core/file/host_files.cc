#include "core/file/host_files.h"

namespace perdure {

// A file whose last reference is gone may still be in the table, on its way to forget().
template <class T>
Ref<T> HostFiles::Table<T>::find(u64 id) const {
  for (T* file = buckets[bucket_of(id)]; file != nullptr; file = file->next_) {
    if (file->id() == id && file->try_get_ref()) return Ref<T>::adopt(file);
  }
  return nullptr;
}

template <class T>
void HostFiles::Table<T>::insert(T& file) {
  T*& first = buckets[bucket_of(file.id())];
  file.next_ = first;
  first = &file;
}

template <class T>
void HostFiles::Table<T>::remove(T& file) {
  T** at = &buckets[bucket_of(file.id())];
  while (*at != &file) at = &(*at)->next_;
  *at = file.next_;
}

template <class T>
bool HostFiles::Table<T>::empty() const {
  for (const T* first : buckets) {
    if (first != nullptr) return false;
  }
  return true;
}

HostFiles::~HostFiles() {
  MutexGuard guard(lock_);
  PERDURE_ASSERT(memories_.empty() && events_.empty());
}

Result<Ref<SharedMemory>> HostFiles::memory(Ref<HostMemory> host) {
  const u64 id = host->id();
  {
    MutexGuard guard(lock_);
    if (Ref<SharedMemory> known = memories_.find(id)) return known;
  }
  Ref<SharedMemory> fresh = TRY(heap_.make_ref<SharedMemory>(heap_, std::move(host)));
  Ref<SharedMemory> known;
  {
    MutexGuard guard(lock_);
    known = memories_.find(id);
    if (!known) {
      fresh->registry_ = this;
      memories_.insert(*fresh);
    }
  }
  // If somebody else was faster, ours goes; it was never in the table.
  return known ? known : fresh;
}

Result<Ref<EventFd>> HostFiles::event(Ref<HostEvent> host) {
  const u64 id = host->id();
  {
    MutexGuard guard(lock_);
    if (Ref<EventFd> known = events_.find(id)) return known;
  }
  Ref<EventFd> fresh = TRY(heap_.make_ref<EventFd>(std::move(host)));
  Ref<EventFd> known;
  {
    MutexGuard guard(lock_);
    known = events_.find(id);
    if (!known) {
      fresh->registry_ = this;
      events_.insert(*fresh);
    }
  }
  return known ? known : fresh;
}

Ref<SharedMemory> HostFiles::find_memory(u64 id) {
  MutexGuard guard(lock_);
  return memories_.find(id);
}

void HostFiles::forget(SharedMemory& file) {
  MutexGuard guard(lock_);
  memories_.remove(file);
}

void HostFiles::forget(EventFd& file) {
  MutexGuard guard(lock_);
  events_.remove(file);
}

}  // namespace perdure

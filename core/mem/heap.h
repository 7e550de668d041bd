// The kernel heap: slabs over machine frames, so that everything the kernel owns lies in the machine's
// memory and is lost, poisoned and accounted for like a real kernel's.
#pragma once
#include <new>
#include <utility>

#include "core/base/list.h"
#include "core/base/lock.h"
#include "core/base/ref.h"
#include "core/base/result.h"
#include "core/mem/frame_allocator.h"

namespace perdure {

template <class T>
class Owned;

class Heap {
 public:
  explicit Heap(FrameAllocator& frames);
  ~Heap();  // every allocation must have been released
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // `bytes` > 0 of memory aligned to min(power of two >= bytes, 4096), contents undefined. Up to 4 MiB:
  // small sizes from slabs, larger ones as whole frames. Enomem.
  Result<void*> allocate(usize bytes);
  void release(void* at, usize bytes);

  template <class T, class... Args>
  Result<Owned<T>> make(Args&&... args);
  // For RefCounted types: the object with its first reference.
  template <class T, class... Args>
  Result<Ref<T>> make_ref(Args&&... args);

  FrameAllocator& frames() const { return frames_; }
  Machine& machine() const { return frames_.machine(); }
  // Bytes handed out and not released: for leak checks.
  u64 bytes_in_use() const;
  // Gives every slab without an object in it back to the frames, so that frame totals can be compared.
  void trim();

 private:
  struct Slab;
  struct SizeClass;
  static constexpr unsigned kClasses = 12;
  FrameAllocator& frames_;
  mutable Mutex lock_{LockRank::Heap};
  u64 in_use_ GUARDED_BY(lock_) = 0;
  struct SlabList {
    ListNode partial;  // see heap.cc
    ListNode full;
  };
  SlabList classes_[kClasses];
};

// A heap object with one owner.
template <class T>
class Owned {
 public:
  Owned() = default;
  Owned(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  Owned(Heap& heap, T* object) : heap_(&heap), object_(object) {}
  Owned(Owned&& o) noexcept : heap_(o.heap_), object_(std::exchange(o.object_, nullptr)), size_(o.size_) {}
  template <class U>
    requires std::convertible_to<U*, T*>
  Owned(Owned<U>&& o)  // NOLINT(google-explicit-constructor)
      : heap_(o.heap_), object_(o.object_), size_(o.size_) {
    o.object_ = nullptr;
  }
  ~Owned() { reset(); }
  Owned& operator=(Owned&& o) noexcept {
    if (this != &o) {
      reset();
      heap_ = o.heap_;
      size_ = o.size_;
      object_ = std::exchange(o.object_, nullptr);
    }
    return *this;
  }
  void reset() {
    if (T* o = std::exchange(object_, nullptr)) {
      o->~T();
      heap_->release(o, size_);
    }
  }
  // The caller takes the object over and ends it with Owned<T>(heap, object).
  T* release() { return std::exchange(object_, nullptr); }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  template <class U>
  friend class Owned;
  Heap* heap_ = nullptr;
  T* object_ = nullptr;
  usize size_ = sizeof(T);
};

template <class T, class... Args>
Result<Owned<T>> Heap::make(Args&&... args) {
  void* at = TRY(allocate(sizeof(T)));
  return Owned<T>(*this, new (at) T(std::forward<Args>(args)...));
}

template <class T, class... Args>
Result<Ref<T>> Heap::make_ref(Args&&... args) {
  void* at = TRY(allocate(sizeof(T)));
  T* object = new (at) T(std::forward<Args>(args)...);
  object->allocation_ = {[](Heap* heap, void* start, usize bytes) { heap->release(start, bytes); }, this, at,
                         sizeof(T)};
  return Ref<T>::adopt(object);
}

}  // namespace perdure

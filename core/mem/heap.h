// The kernel heap: slabs over machine frames, so that everything the kernel owns lies in the machine's
// memory and is lost, poisoned and accounted for like a real kernel's.
#pragma once
#include <concepts>
#include <new>
#include <type_traits>
#include <utility>

#include "core/base/lock.h"
#include "core/base/ref.h"
#include "core/base/result.h"
#include "core/mem/frame_allocator.h"

namespace perdure {

template <class T>
class Owned;

class Heap {
 public:
  static constexpr usize kMaxBytes = kPageSize << FrameAllocator::kMaxOrder;

  explicit Heap(FrameAllocator& frames) : frames_(frames) {}
  ~Heap();  // every allocation must have been released
  Heap(const Heap&) = delete;
  Heap& operator=(const Heap&) = delete;

  // `bytes` > 0 of memory aligned to min(power of two >= bytes, 4096), contents undefined. Up to kMaxBytes:
  // small sizes from slabs, larger ones as whole frames. Enomem, also above kMaxBytes; Einval for 0.
  Result<void*> allocate(usize bytes);
  // `bytes` as allocated. A second release, or another size class, is a bug and panics.
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
  // Frames that slabs hold: how many it takes depends on which objects ended, not only on how many.
  u64 slab_frames() const;
  // Gives every slab without an object in it back to the frames, so that frame totals can be compared.
  void trim();

 private:
  struct Slab;
  static constexpr unsigned kMinShift = 4;   // 16 B
  static constexpr unsigned kMaxShift = 11;  // 2 KiB
  static constexpr unsigned kClasses = kMaxShift - kMinShift + 1;
  struct Class {
    Slab* partial = nullptr;  // slabs with objects in use and free ones
    Slab* empty = nullptr;    // at most one, kept back so that a lone object does not cost a slab each time
  };

  static constexpr unsigned class_of(usize bytes);
  static constexpr unsigned slab_order(unsigned c);
  static constexpr unsigned frame_order(usize bytes);
  Result<Slab*> grow(unsigned c) REQUIRES(lock_);
  void give_back(Slab* slab) REQUIRES(lock_);
  void push(Class& list, Slab* slab) REQUIRES(lock_);
  void remove(Class& list, Slab* slab) REQUIRES(lock_);
  Result<void*> allocate_small(usize bytes);
  void release_small(void* at, usize bytes);

  FrameAllocator& frames_;
  mutable Mutex lock_{LockRank::Heap};
  u64 in_use_ GUARDED_BY(lock_) = 0;
  u64 slab_frames_ GUARDED_BY(lock_) = 0;
  Class classes_[kClasses] GUARDED_BY(lock_);
};

// A heap object with one owner. The owner may hold it by a base type, wherever in the object the base lies, if the
// base has a virtual destructor.
template <class T>
class Owned {
 public:
  Owned() = default;
  Owned(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  // Takes over what make<T>() made and release() gave up: an object of type T itself, not of one derived from it.
  Owned(Heap& heap, T* object) : heap_(&heap), object_(object), start_(object), bytes_(sizeof(T)) {}
  Owned(Owned&& o) noexcept
      : heap_(o.heap_), object_(std::exchange(o.object_, nullptr)), start_(o.start_), bytes_(o.bytes_) {}
  template <class U>
    requires(std::convertible_to<U*, T*> && !std::same_as<U, T>)
  Owned(Owned<U>&& o)  // NOLINT(google-explicit-constructor)
      : heap_(o.heap_), object_(std::exchange(o.object_, nullptr)), start_(o.start_), bytes_(o.bytes_) {
    static_assert(std::has_virtual_destructor_v<T>);
  }
  ~Owned() { reset(); }
  Owned& operator=(Owned&& o) noexcept {
    if (this != &o) {
      reset();
      heap_ = o.heap_;
      start_ = o.start_;
      bytes_ = o.bytes_;
      object_ = std::exchange(o.object_, nullptr);
    }
    return *this;
  }
  void reset() {
    if (T* o = std::exchange(object_, nullptr)) {
      o->~T();
      heap_->release(start_, bytes_);
    }
  }
  // The caller takes the object over and ends it with Owned<T>(heap, object). Only while T is the type it was
  // made with.
  T* release() {
    PERDURE_ASSERT(object_ == nullptr || (start_ == object_ && bytes_ == sizeof(T)));
    return std::exchange(object_, nullptr);
  }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }

 private:
  template <class U>
  friend class Owned;
  Heap* heap_ = nullptr;
  T* object_ = nullptr;
  void* start_ = nullptr;  // of the whole object, and its size
  usize bytes_ = 0;
};

template <class T, class... Args>
Result<Owned<T>> Heap::make(Args&&... args) {
  static_assert(alignof(T) <= kPageSize);
  void* at = TRY(allocate(sizeof(T)));
  return Owned<T>(*this, new (at) T(std::forward<Args>(args)...));
}

template <class T, class... Args>
Result<Ref<T>> Heap::make_ref(Args&&... args) {
  static_assert(alignof(T) <= kPageSize && std::derived_from<T, RefCounted>);
  void* at = TRY(allocate(sizeof(T)));
  T* object = new (at) T(std::forward<Args>(args)...);
  static_cast<RefCounted*>(object)->allocation_ = {
      [](Heap* heap, void* start, usize bytes) { heap->release(start, bytes); }, this, at, sizeof(T)};
  return Ref<T>::adopt(object);
}

}  // namespace perdure

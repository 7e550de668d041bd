// Intrusive reference counting for objects of the kernel heap.
#pragma once
#include <atomic>
#include <concepts>
#include <utility>

#include "core/base/platform.h"

namespace perdure {

class Heap;

// Base of everything with a virtual destructor: the heap frees it, operator delete never does.
class HeapObject {
 public:
  HeapObject() = default;
  HeapObject(const HeapObject&) = delete;
  HeapObject& operator=(const HeapObject&) = delete;
  virtual ~HeapObject() = default;
  // Only so that deleting destructors link; nobody calls delete.
  static void operator delete(void*, usize) { perdure_panic("operator delete", __FILE__, __LINE__); }
};

// Starts with one reference, which Heap::make_ref or adopt() hands out.
class RefCounted : public HeapObject {
 public:
  void get_ref() const { count_.fetch_add(1, std::memory_order_relaxed); }
  // For registries that do not keep their objects alive: false when the last reference is gone already.
  bool try_get_ref() const {
    u32 count = count_.load(std::memory_order_relaxed);
    while (count != 0) {
      if (count_.compare_exchange_weak(count, count + 1, std::memory_order_acq_rel, std::memory_order_relaxed))
        return true;
    }
    return false;
  }
  void put_ref() const {
    if (count_.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      auto* self = const_cast<RefCounted*>(this);
      self->on_last_ref();
      self->dispose();
    }
  }
  u32 ref_count() const { return count_.load(std::memory_order_relaxed); }

 protected:
  // Before destruction, while the object is whole. Must not take a new reference that outlives the call.
  virtual void on_last_ref() {}
  // Destroys the object and gives its memory back: to the heap it came from, unless a machine's object
  // overrides this.
  virtual void dispose() {
    const Allocation from = allocation_;
    PERDURE_ASSERT(from.release != nullptr);
    this->~RefCounted();
    from.release(from.heap, from.start, from.bytes);
  }

 private:
  friend class Heap;
  struct Allocation {
    void (*release)(Heap*, void*, usize) = nullptr;
    Heap* heap = nullptr;
    void* start = nullptr;
    usize bytes = 0;
  };
  mutable std::atomic<u32> count_{1};
  Allocation allocation_;
};

template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(std::nullptr_t) {}  // NOLINT(google-explicit-constructor)
  // Takes another reference.
  explicit Ref(T* object) : object_(object) {
    if (object_) object_->get_ref();
  }
  Ref(const Ref& o) : Ref(o.object_) {}
  Ref(Ref&& o) noexcept : object_(std::exchange(o.object_, nullptr)) {}
  template <class U>
    requires std::convertible_to<U*, T*>
  Ref(Ref<U> o) : object_(o.release()) {}  // NOLINT(google-explicit-constructor)
  ~Ref() {
    if (object_) object_->put_ref();
  }
  Ref& operator=(Ref o) noexcept {
    std::swap(object_, o.object_);
    return *this;
  }
  // Takes over the caller's reference.
  static Ref adopt(T* object) {
    Ref r;
    r.object_ = object;
    return r;
  }
  T* release() { return std::exchange(object_, nullptr); }
  T* get() const { return object_; }
  T* operator->() const { return object_; }
  T& operator*() const { return *object_; }
  explicit operator bool() const { return object_ != nullptr; }
  bool operator==(const Ref& o) const { return object_ == o.object_; }

 private:
  T* object_ = nullptr;
};

}  // namespace perdure

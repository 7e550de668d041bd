// A growable array over the kernel heap whose growth can fail.
#pragma once
#include <span>
#include <type_traits>

#include "core/mem/heap.h"

namespace perdure {

template <class T>
class Vec {
  static_assert(std::is_nothrow_move_constructible_v<T>);

 public:
  explicit Vec(Heap& heap) : heap_(&heap) {}
  Vec(Vec&& o) noexcept
      : heap_(o.heap_),
        data_(std::exchange(o.data_, nullptr)),
        size_(std::exchange(o.size_, 0)),
        capacity_(std::exchange(o.capacity_, 0)) {}
  Vec& operator=(Vec&& o) noexcept {
    if (this != &o) {
      destroy();
      heap_ = o.heap_;
      data_ = std::exchange(o.data_, nullptr);
      size_ = std::exchange(o.size_, 0);
      capacity_ = std::exchange(o.capacity_, 0);
    }
    return *this;
  }
  ~Vec() { destroy(); }

  Result<void> reserve(usize n) {
    if (n <= capacity_) return {};
    if (n > Heap::kMaxBytes / sizeof(T)) return fail(Errno::Enomem);
    usize grown = capacity_ ? capacity_ : 4;
    while (grown < n) grown *= 2;
    if (grown > Heap::kMaxBytes / sizeof(T)) grown = Heap::kMaxBytes / sizeof(T);
    T* fresh = static_cast<T*>(TRY(heap_->allocate(grown * sizeof(T))));
    for (usize i = 0; i < size_; ++i) {
      new (fresh + i) T(std::move(data_[i]));
      data_[i].~T();
    }
    if (data_) heap_->release(data_, capacity_ * sizeof(T));
    data_ = fresh;
    capacity_ = grown;
    return {};
  }
  Result<void> push_back(T value) {
    TRY(reserve(size_ + 1));
    new (data_ + size_) T(std::move(value));
    ++size_;
    return {};
  }
  // Keeps the order of the rest.
  void erase_at(usize i) {
    for (; i + 1 < size_; ++i) data_[i] = std::move(data_[i + 1]);
    pop_back();
  }
  // [from, to), likewise.
  void erase(usize from, usize to) {
    const usize gap = to - from;
    if (gap == 0) return;
    for (usize i = to; i < size_; ++i) data_[i - gap] = std::move(data_[i]);
    for (usize i = 0; i < gap; ++i) pop_back();
  }
  Result<void> insert_at(usize i, T value) {
    TRY(push_back(std::move(value)));
    for (usize k = size_ - 1; k > i; --k) std::swap(data_[k], data_[k - 1]);
    return {};
  }
  void pop_back() { data_[--size_].~T(); }
  void clear() {
    while (size_) pop_back();
  }

  usize size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T& operator[](usize i) { return data_[i]; }
  const T& operator[](usize i) const { return data_[i]; }
  T& back() { return data_[size_ - 1]; }
  T* begin() { return data_; }
  T* end() { return data_ + size_; }
  const T* begin() const { return data_; }
  const T* end() const { return data_ + size_; }
  std::span<T> span() { return {data_, size_}; }
  std::span<const T> span() const { return {data_, size_}; }
  Heap& heap() const { return *heap_; }

 private:
  void destroy() {
    clear();
    if (data_) heap_->release(data_, capacity_ * sizeof(T));
    data_ = nullptr;
    capacity_ = 0;
  }
  Heap* heap_;
  T* data_ = nullptr;
  usize size_ = 0;
  usize capacity_ = 0;
};

}  // namespace perdure

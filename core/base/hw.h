// Access to memory that hardware reads or writes at the same time. Every such word is loaded and stored
// through here, on the driver's side and on the device's, as one naturally aligned atomic access.
#pragma once
#include <type_traits>

#include "core/base/types.h"

namespace perdure::hw {

template <class T>
  requires(std::is_integral_v<T> && sizeof(T) <= 8)
inline T load(const T* p) {
  return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

template <class T>
  requires(std::is_integral_v<T> && sizeof(T) <= 8)
inline void store(T* p, T value) {
  __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

template <class T>
  requires(std::is_integral_v<T> && sizeof(T) <= 8)
inline bool compare_exchange(T* p, T& expected, T desired) {
  return __atomic_compare_exchange_n(p, &expected, desired, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

// Of a word that hardware may change at the same time: its other bits stay as hardware left them.
template <class T>
  requires(std::is_integral_v<T> && sizeof(T) <= 8)
inline void set_bits(T* p, T bits) {
  __atomic_fetch_or(p, bits, __ATOMIC_ACQ_REL);
}
template <class T>
  requires(std::is_integral_v<T> && sizeof(T) <= 8)
inline void clear_bits(T* p, T bits) {
  __atomic_fetch_and(p, static_cast<T>(~bits), __ATOMIC_ACQ_REL);
}

// Orders all earlier stores before all later accesses, as seen by a device.
inline void fence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

}  // namespace perdure::hw

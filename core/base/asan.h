// Manual poisoning for AddressSanitizer: memory that the core's allocators hold, and nobody may touch, is marked
// so. Without the sanitizer these are empty, and nothing is linked.
#pragma once
#include "core/base/types.h"

#if defined(__SANITIZE_ADDRESS__)
#define PERDURE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define PERDURE_ASAN 1
#endif
#endif

#if defined(PERDURE_ASAN)
extern "C" {
void __asan_poison_memory_region(const volatile void* at, perdure::usize bytes);
void __asan_unpoison_memory_region(const volatile void* at, perdure::usize bytes);
}
#endif

namespace perdure::asan {

inline void poison([[maybe_unused]] const void* at, [[maybe_unused]] usize bytes) {
#if defined(PERDURE_ASAN)
  __asan_poison_memory_region(at, bytes);
#endif
}

inline void unpoison([[maybe_unused]] const void* at, [[maybe_unused]] usize bytes) {
#if defined(PERDURE_ASAN)
  __asan_unpoison_memory_region(at, bytes);
#endif
}

}  // namespace perdure::asan

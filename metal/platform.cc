// What compilers and the core expect to find: functions of <string.h> and the core's hooks.
#include "core/base/platform.h"

#include "core/base/log.h"
#include "metal/io.h"
#include "metal/report.h"
#include "metal/serial.h"

namespace {
constinit perdure::ThreadContext the_thread;
}

extern "C" {

// String instructions, so that the compiler does not find a call of memcpy in memcpy.
void* memcpy(void* to, const void* from, std::size_t n) {
  void* at = to;
  std::size_t words = n / 8;
  std::size_t rest = n % 8;
  __asm__ volatile("rep movsq" : "+D"(at), "+S"(from), "+c"(words) : : "memory");
  __asm__ volatile("rep movsb" : "+D"(at), "+S"(from), "+c"(rest) : : "memory");
  return to;
}

void* memset(void* to, int value, std::size_t n) {
  void* at = to;
  std::size_t words = n / 8;
  std::size_t rest = n % 8;
  const std::uint64_t pattern = 0x0101'0101'0101'0101 * static_cast<unsigned char>(value);
  __asm__ volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(pattern) : "memory");
  __asm__ volatile("rep stosb" : "+D"(at), "+c"(rest) : "a"(pattern) : "memory");
  return to;
}

void* memmove(void* to, const void* from, std::size_t n) {
  if (reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(from) >= n) return memcpy(to, from, n);
  auto* at = static_cast<char*>(to) + n - 1;
  const auto* last = static_cast<const char*>(from) + n - 1;
  __asm__ volatile("std; rep movsb; cld" : "+D"(at), "+S"(last), "+c"(n) : : "memory");
  return to;
}

int memcmp(const void* a, const void* b, std::size_t n) {
  const auto* x = static_cast<const unsigned char*>(a);
  const auto* y = static_cast<const unsigned char*>(b);
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    std::uint64_t v = 0;
    std::uint64_t w = 0;
    __builtin_memcpy(&v, x + i, 8);
    __builtin_memcpy(&w, y + i, 8);
    if (v != w) break;
  }
  for (; i < n; ++i) {
    if (x[i] != y[i]) return x[i] - y[i];
  }
  return 0;
}

// Of literals; clang does not work it out itself where there is no hosted library.
std::size_t strlen(const char* text) {
  std::size_t n = 0;
  while (text[n] != '\0') {
    ++n;
    __asm__ volatile("" : "+r"(n));  // or the compiler finds a call of strlen here
  }
  return n;
}

// NOLINTNEXTLINE(readability-identifier-naming): the compiler names it
[[noreturn]] void __cxa_pure_virtual() {
  perdure_panic("call of a pure virtual function", __FILE__, __LINE__);
}

perdure::ThreadContext* perdure_thread_context() {
  return &the_thread;
}

// There is one thread of control: whoever waits here waits for itself.
void perdure_relax() {
  perdure_panic("a lock is taken that is held", __FILE__, __LINE__);
}

void perdure_panic(const char* what, const char* file, unsigned line) {
  perdure::metal::log(perdure::LogLevel::Error,
                      (perdure::Line() << "panic: " << what << " (" << file << ":" << line << ") called from "
                                       << perdure::Hex{reinterpret_cast<perdure::u64>(__builtin_return_address(0))})
                          .view());
  perdure::metal::end_run(perdure::metal::Verdict::Broken);
}
}

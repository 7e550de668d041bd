// Fuzz input as a stream of small decisions. What lies beyond its end reads as 0, so that any prefix is an input, too.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>

#include "core/base/types.h"

namespace perdure::fuzz {

class Input {
 public:
  Input(const u8* data, usize bytes) : data_(data), left_(bytes) {}

  bool empty() const { return left_ == 0; }
  usize left() const { return left_; }

  template <class T>
  T number() {
    T value{};
    const usize n = left_ < sizeof value ? left_ : sizeof value;
    if (n != 0) std::memcpy(&value, data_, n);
    data_ += n;
    left_ -= n;
    return value;
  }
  u8 byte() { return number<u8>(); }
  bool flag() { return (byte() & 1) != 0; }
  // Below `limit`, which is not 0.
  u32 below(u32 limit) { return (limit <= 256 ? byte() : number<u32>()) % limit; }
  template <class T, usize N>
  const T& one_of(const T (&values)[N]) {
    return values[below(static_cast<u32>(N))];
  }
  template <class T>
  const T& one_of(std::span<const T> values) {
    return values[below(static_cast<u32>(values.size()))];
  }
  std::span<const u8> take(usize bytes) {
    const usize n = left_ < bytes ? left_ : bytes;
    const std::span<const u8> taken(data_, n);
    data_ += n;
    left_ -= n;
    return taken;
  }

 private:
  const u8* data_;
  usize left_;
};

}  // namespace perdure::fuzz

// What must hold for every input. Aborts: both libFuzzer and the replay show what was going on.
#define FUZZ_REQUIRE(condition, ...)                                                        \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n  ", __FILE__, __LINE__, #condition); \
      std::fprintf(stderr, __VA_ARGS__);                                                    \
      std::fprintf(stderr, "\n");                                                           \
      std::abort();                                                                         \
    }                                                                                       \
  } while (false)

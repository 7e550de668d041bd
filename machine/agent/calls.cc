// What programs call on files that are open, and beside files.
#include <sys/syscall.h>

#include <cstdarg>

#include "machine/agent/link.h"
#include "machine/agent/next.h"
#include "machine/agent/raw.h"

namespace perdure::agent {
namespace {

u64 word(int value) {
  return static_cast<u64>(static_cast<s64>(value));
}

int status(const Outcome& o) {
  return static_cast<int>(result(o.value));
}

Outcome positioned(int number, int fd, const void* at, usize bytes, s64 position) {
  return intercept(number, word(fd), address(at), bytes, static_cast<u64>(position));
}

// The upper half of the position has an argument of its own, for processors that need it.
Outcome vectored(int number, int fd, const void* parts, int count, s64 position, int flags) {
  return intercept(number, word(fd), address(parts), word(count), static_cast<u64>(position), 0, word(flags));
}

}  // namespace
}  // namespace perdure::agent

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): names that programs are linked with
using namespace perdure::agent;  // NOLINT(google-build-using-namespace)
using perdure::s64;
using perdure::u64;
using perdure::usize;

PERDURE_TAKES_PLACE int ioctl(int fd, unsigned long command, ...) {
  va_list rest;
  va_start(rest, command);
  void* const argument = va_arg(rest, void*);
  va_end(rest);
  const Outcome o = intercept(SYS_ioctl, word(fd), command, address(argument));
  return o.ours ? status(o) : PERDURE_NEXT(int(int, unsigned long, ...), ioctl)(fd, command, argument);
}
PERDURE_TAKES_PLACE long pread(int fd, void* to, usize bytes, s64 position) {
  const Outcome o = positioned(SYS_pread64, fd, to, bytes, position);
  return o.ours ? result(o.value) : PERDURE_NEXT(long(int, void*, usize, s64), pread)(fd, to, bytes, position);
}
PERDURE_TAKES_PLACE long pwrite(int fd, const void* from, usize bytes, s64 position) {
  const Outcome o = positioned(SYS_pwrite64, fd, from, bytes, position);
  return o.ours ? result(o.value) : PERDURE_NEXT(long(int, const void*, usize, s64), pwrite)(fd, from, bytes, position);
}
PERDURE_TAKES_PLACE long __pread_chk(int fd, void* to, usize bytes, s64 position, usize size) {
  const Outcome o = positioned(SYS_pread64, fd, to, bytes, position);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, void*, usize, s64, usize), __pread_chk)(fd, to, bytes, position, size);
}
PERDURE_TAKES_PLACE long preadv(int fd, const void* parts, int count, s64 position) {
  const Outcome o = vectored(SYS_preadv, fd, parts, count, position, 0);
  return o.ours ? result(o.value) : PERDURE_NEXT(long(int, const void*, int, s64), preadv)(fd, parts, count, position);
}
PERDURE_TAKES_PLACE long pwritev(int fd, const void* parts, int count, s64 position) {
  const Outcome o = vectored(SYS_pwritev, fd, parts, count, position, 0);
  return o.ours ? result(o.value) : PERDURE_NEXT(long(int, const void*, int, s64), pwritev)(fd, parts, count, position);
}
PERDURE_TAKES_PLACE long preadv2(int fd, const void* parts, int count, s64 position, int flags) {
  const Outcome o = vectored(SYS_preadv2, fd, parts, count, position, flags);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const void*, int, s64, int), preadv2)(fd, parts, count, position, flags);
}
PERDURE_TAKES_PLACE long pwritev2(int fd, const void* parts, int count, s64 position, int flags) {
  const Outcome o = vectored(SYS_pwritev2, fd, parts, count, position, flags);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const void*, int, s64, int), pwritev2)(fd, parts, count, position, flags);
}
PERDURE_TAKES_PLACE long pread64(int fd, void* to, usize bytes, s64 position) {
  const Outcome o = positioned(SYS_pread64, fd, to, bytes, position);
  return o.ours ? result(o.value) : PERDURE_NEXT(long(int, void*, usize, s64), pread64)(fd, to, bytes, position);
}
PERDURE_TAKES_PLACE long pwrite64(int fd, const void* from, usize bytes, s64 position) {
  const Outcome o = positioned(SYS_pwrite64, fd, from, bytes, position);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const void*, usize, s64), pwrite64)(fd, from, bytes, position);
}
PERDURE_TAKES_PLACE long __pread64_chk(int fd, void* to, usize bytes, s64 position, usize size) {
  const Outcome o = positioned(SYS_pread64, fd, to, bytes, position);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, void*, usize, s64, usize), __pread64_chk)(fd, to, bytes, position, size);
}
PERDURE_TAKES_PLACE long preadv64(int fd, const void* parts, int count, s64 position) {
  const Outcome o = vectored(SYS_preadv, fd, parts, count, position, 0);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const void*, int, s64), preadv64)(fd, parts, count, position);
}
PERDURE_TAKES_PLACE long pwritev64(int fd, const void* parts, int count, s64 position) {
  const Outcome o = vectored(SYS_pwritev, fd, parts, count, position, 0);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const void*, int, s64), pwritev64)(fd, parts, count, position);
}
PERDURE_TAKES_PLACE long preadv64v2(int fd, const void* parts, int count, s64 position, int flags) {
  const Outcome o = vectored(SYS_preadv2, fd, parts, count, position, flags);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const void*, int, s64, int), preadv64v2)(fd, parts, count, position, flags);
}
PERDURE_TAKES_PLACE long pwritev64v2(int fd, const void* parts, int count, s64 position, int flags) {
  const Outcome o = vectored(SYS_pwritev2, fd, parts, count, position, flags);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const void*, int, s64, int), pwritev64v2)(fd, parts, count, position, flags);
}
PERDURE_TAKES_PLACE long write(int fd, const void* from, usize bytes) {
  const Outcome o = intercept(SYS_write, word(fd), address(from), bytes);
  return o.ours ? result(o.value) : PERDURE_NEXT(long(int, const void*, usize), write)(fd, from, bytes);
}
PERDURE_TAKES_PLACE long writev(int fd, const void* parts, int count) {
  const Outcome o = intercept(SYS_writev, word(fd), address(parts), word(count));
  return o.ours ? result(o.value) : PERDURE_NEXT(long(int, const void*, int), writev)(fd, parts, count);
}

PERDURE_TAKES_PLACE void* mmap(void* at, usize bytes, int protection, int flags, int fd, s64 offset) {
  const Outcome o =
      intercept(SYS_mmap, address(at), bytes, word(protection), word(flags), word(fd), static_cast<u64>(offset));
  return o.ours ? reinterpret_cast<void*>(result(o.value))
                : PERDURE_NEXT(void*(void*, usize, int, int, int, s64), mmap)(at, bytes, protection, flags, fd, offset);
}
PERDURE_TAKES_PLACE void* mmap64(void* at, usize bytes, int protection, int flags, int fd, s64 offset) {
  const Outcome o =
      intercept(SYS_mmap, address(at), bytes, word(protection), word(flags), word(fd), static_cast<u64>(offset));
  return o.ours
             ? reinterpret_cast<void*>(result(o.value))
             : PERDURE_NEXT(void*(void*, usize, int, int, int, s64), mmap64)(at, bytes, protection, flags, fd, offset);
}

PERDURE_TAKES_PLACE int eventfd(unsigned count, int flags) {
  const Outcome o = intercept(SYS_eventfd2, count, word(flags));
  return o.ours ? status(o) : PERDURE_NEXT(int(unsigned, int), eventfd)(count, flags);
}

PERDURE_TAKES_PLACE int reboot(int command) {
  constexpr u64 kMagic = 0xfee1dead;
  constexpr u64 kMagic2 = 672274793;
  const Outcome o = intercept(SYS_reboot, kMagic, kMagic2, static_cast<unsigned>(command), 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(int), reboot)(command);
}

PERDURE_TAKES_PLACE long syscall(long number, ...) {
  va_list rest;
  va_start(rest, number);
  u64 args[6];
  for (u64& one : args) one = va_arg(rest, u64);
  va_end(rest);
  const Outcome o = intercept(number, args[0], args[1], args[2], args[3], args[4], args[5]);
  return result(o.ours ? o.value : raw(number, args[0], args[1], args[2], args[3], args[4], args[5]));
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

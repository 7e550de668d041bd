// What programs call to open files and to look at them. No header that declares these is included: the C library's
// declarations of them differ from release to release.
#include <linux/fcntl.h>
#include <sys/syscall.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "machine/agent/link.h"
#include "machine/agent/next.h"
#include "machine/agent/raw.h"

namespace perdure::agent {
namespace {

constexpr unsigned kNewFile = 0666;
constexpr int kFaccessat2 = 439;  // newer than some headers

u64 word(int value) {
  return static_cast<u64>(static_cast<s64>(value));
}

int status(const Outcome& o) {
  return static_cast<int>(result(o.value));
}

Outcome open_at(int directory, const char* path, int flags, unsigned mode) {
  return intercept(SYS_openat, word(directory), address(path), word(flags), mode);
}

bool takes_mode(int flags) {
  constexpr int kTemporary = 020000000;  // __O_TMPFILE
  return (flags & (O_CREAT | kTemporary)) != 0;
}

int flags_of(const char* mode) {
  int flags = std::strchr(mode, '+') != nullptr ? O_RDWR : mode[0] == 'r' ? O_RDONLY : O_WRONLY;
  if (mode[0] == 'w') flags |= O_CREAT | O_TRUNC;
  if (mode[0] == 'a') flags |= O_CREAT | O_APPEND;
  if (std::strchr(mode, 'x') != nullptr) flags |= O_EXCL;
  if (std::strchr(mode, 'e') != nullptr) flags |= O_CLOEXEC;
  return flags;
}

// The stream of a descriptor that was put here; errno says why there is none.
template <class Make>
auto stream_of(s64 fd, Make make) -> decltype(make(0)) {
  if (result(fd) < 0) return nullptr;
  auto* const made = make(static_cast<int>(fd));
  if (made == nullptr) raw(SYS_close, static_cast<u64>(fd));
  return made;
}

Outcome stat_at(int directory, const char* path, void* to, int flags) {
  return intercept(SYS_newfstatat, word(directory), address(path), address(to), word(flags));
}

Outcome read_link(int directory, const char* path, char* to, usize room) {
  return intercept(SYS_readlinkat, word(directory), address(path), address(to), room);
}

}  // namespace
}  // namespace perdure::agent

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): names that programs are linked with
using namespace perdure::agent;  // NOLINT(google-build-using-namespace)
using perdure::usize;

PERDURE_TAKES_PLACE int open(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const unsigned mode = takes_mode(flags) ? va_arg(rest, unsigned) : 0;
  va_end(rest);
  const Outcome o = open_at(AT_FDCWD, path, flags, mode);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, int, ...), open)(path, flags, mode);
}
PERDURE_TAKES_PLACE int open64(const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const unsigned mode = takes_mode(flags) ? va_arg(rest, unsigned) : 0;
  va_end(rest);
  const Outcome o = open_at(AT_FDCWD, path, flags, mode);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, int, ...), open64)(path, flags, mode);
}
PERDURE_TAKES_PLACE int openat(int directory, const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const unsigned mode = takes_mode(flags) ? va_arg(rest, unsigned) : 0;
  va_end(rest);
  const Outcome o = open_at(directory, path, flags, mode);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, int, ...), openat)(directory, path, flags, mode);
}
PERDURE_TAKES_PLACE int openat64(int directory, const char* path, int flags, ...) {
  va_list rest;
  va_start(rest, flags);
  const unsigned mode = takes_mode(flags) ? va_arg(rest, unsigned) : 0;
  va_end(rest);
  const Outcome o = open_at(directory, path, flags, mode);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, int, ...), openat64)(directory, path, flags, mode);
}
// What _FORTIFY_SOURCE makes of them where no mode is passed.
PERDURE_TAKES_PLACE int __open_2(const char* path, int flags) {
  const Outcome o = open_at(AT_FDCWD, path, flags, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, int), __open_2)(path, flags);
}
PERDURE_TAKES_PLACE int __open64_2(const char* path, int flags) {
  const Outcome o = open_at(AT_FDCWD, path, flags, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, int), __open64_2)(path, flags);
}
PERDURE_TAKES_PLACE int __openat_2(int directory, const char* path, int flags) {
  const Outcome o = open_at(directory, path, flags, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, int), __openat_2)(directory, path, flags);
}
PERDURE_TAKES_PLACE int __openat64_2(int directory, const char* path, int flags) {
  const Outcome o = open_at(directory, path, flags, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, int), __openat64_2)(directory, path, flags);
}
PERDURE_TAKES_PLACE int creat(const char* path, unsigned mode) {
  const Outcome o = open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, unsigned), creat)(path, mode);
}
PERDURE_TAKES_PLACE int creat64(const char* path, unsigned mode) {
  const Outcome o = open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, unsigned), creat64)(path, mode);
}

// The C library opens these itself, without calling anything that could be replaced.
extern "C" void* fdopendir(int fd);

PERDURE_TAKES_PLACE FILE* fopen(const char* path, const char* mode) {
  const Outcome o = open_at(AT_FDCWD, path, flags_of(mode), kNewFile);
  return o.ours ? stream_of(o.value, [mode](int fd) { return fdopen(fd, mode); })
                : PERDURE_NEXT(FILE * (const char*, const char*), fopen)(path, mode);
}
PERDURE_TAKES_PLACE FILE* fopen64(const char* path, const char* mode) {
  const Outcome o = open_at(AT_FDCWD, path, flags_of(mode), kNewFile);
  return o.ours ? stream_of(o.value, [mode](int fd) { return fdopen(fd, mode); })
                : PERDURE_NEXT(FILE * (const char*, const char*), fopen64)(path, mode);
}
PERDURE_TAKES_PLACE void* opendir(const char* path) {
  const Outcome o = open_at(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK, 0);
  return o.ours ? stream_of(o.value, [](int fd) { return fdopendir(fd); })
                : PERDURE_NEXT(void*(const char*), opendir)(path);
}

// --- looking: with the kernel's structure, which is the C library's on this processor
// ---------------------------------

PERDURE_TAKES_PLACE int stat(const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, void*), stat)(path, to);
}
PERDURE_TAKES_PLACE int lstat(const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, void*), lstat)(path, to);
}
PERDURE_TAKES_PLACE int fstat(int fd, void* to) {
  const Outcome o = intercept(SYS_fstat, word(fd), address(to));
  return o.ours ? status(o) : PERDURE_NEXT(int(int, void*), fstat)(fd, to);
}
PERDURE_TAKES_PLACE int fstatat(int directory, const char* path, void* to, int flags) {
  const Outcome o = stat_at(directory, path, to, flags);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, void*, int), fstatat)(directory, path, to, flags);
}
PERDURE_TAKES_PLACE int stat64(const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, void*), stat64)(path, to);
}
PERDURE_TAKES_PLACE int lstat64(const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, void*), lstat64)(path, to);
}
PERDURE_TAKES_PLACE int fstat64(int fd, void* to) {
  const Outcome o = intercept(SYS_fstat, word(fd), address(to));
  return o.ours ? status(o) : PERDURE_NEXT(int(int, void*), fstat64)(fd, to);
}
PERDURE_TAKES_PLACE int fstatat64(int directory, const char* path, void* to, int flags) {
  const Outcome o = stat_at(directory, path, to, flags);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, void*, int), fstatat64)(directory, path, to, flags);
}
// Of programs that were linked before glibc 2.33.
PERDURE_TAKES_PLACE int __xstat(int version, const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, void*), __xstat)(version, path, to);
}
PERDURE_TAKES_PLACE int __lxstat(int version, const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, void*), __lxstat)(version, path, to);
}
PERDURE_TAKES_PLACE int __fxstat(int version, int fd, void* to) {
  const Outcome o = intercept(SYS_fstat, word(fd), address(to));
  return o.ours ? status(o) : PERDURE_NEXT(int(int, int, void*), __fxstat)(version, fd, to);
}
PERDURE_TAKES_PLACE int __fxstatat(int version, int directory, const char* path, void* to, int flags) {
  const Outcome o = stat_at(directory, path, to, flags);
  return o.ours ? status(o)
                : PERDURE_NEXT(int(int, int, const char*, void*, int), __fxstatat)(version, directory, path, to, flags);
}
PERDURE_TAKES_PLACE int __xstat64(int version, const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, 0);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, void*), __xstat64)(version, path, to);
}
PERDURE_TAKES_PLACE int __lxstat64(int version, const char* path, void* to) {
  const Outcome o = stat_at(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW);
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, void*), __lxstat64)(version, path, to);
}
PERDURE_TAKES_PLACE int __fxstat64(int version, int fd, void* to) {
  const Outcome o = intercept(SYS_fstat, word(fd), address(to));
  return o.ours ? status(o) : PERDURE_NEXT(int(int, int, void*), __fxstat64)(version, fd, to);
}
PERDURE_TAKES_PLACE int __fxstatat64(int version, int directory, const char* path, void* to, int flags) {
  const Outcome o = stat_at(directory, path, to, flags);
  return o.ours
             ? status(o)
             : PERDURE_NEXT(int(int, int, const char*, void*, int), __fxstatat64)(version, directory, path, to, flags);
}
PERDURE_TAKES_PLACE int statx(int directory, const char* path, int flags, unsigned mask, void* to) {
  const Outcome o = intercept(SYS_statx, word(directory), address(path), word(flags), mask, address(to));
  return o.ours ? status(o)
                : PERDURE_NEXT(int(int, const char*, int, unsigned, void*), statx)(directory, path, flags, mask, to);
}

PERDURE_TAKES_PLACE int access(const char* path, int mode) {
  const Outcome o = intercept(SYS_access, address(path), word(mode));
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, int), access)(path, mode);
}
PERDURE_TAKES_PLACE int faccessat(int directory, const char* path, int mode, int flags) {
  const Outcome o = intercept(kFaccessat2, word(directory), address(path), word(mode), word(flags));
  return o.ours ? status(o) : PERDURE_NEXT(int(int, const char*, int, int), faccessat)(directory, path, mode, flags);
}
PERDURE_TAKES_PLACE int euidaccess(const char* path, int mode) {
  const Outcome o = intercept(kFaccessat2, word(AT_FDCWD), address(path), word(mode), AT_EACCESS);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, int), euidaccess)(path, mode);
}
PERDURE_TAKES_PLACE int eaccess(const char* path, int mode) {
  const Outcome o = intercept(kFaccessat2, word(AT_FDCWD), address(path), word(mode), AT_EACCESS);
  return o.ours ? status(o) : PERDURE_NEXT(int(const char*, int), eaccess)(path, mode);
}

PERDURE_TAKES_PLACE long readlink(const char* path, char* to, usize room) {
  const Outcome o = read_link(AT_FDCWD, path, to, room);
  return o.ours ? result(o.value) : PERDURE_NEXT(long(const char*, char*, usize), readlink)(path, to, room);
}
PERDURE_TAKES_PLACE long readlinkat(int directory, const char* path, char* to, usize room) {
  const Outcome o = read_link(directory, path, to, room);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const char*, char*, usize), readlinkat)(directory, path, to, room);
}
PERDURE_TAKES_PLACE long __readlink_chk(const char* path, char* to, usize room, usize size) {
  const Outcome o = read_link(AT_FDCWD, path, to, room);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(const char*, char*, usize, usize), __readlink_chk)(path, to, room, size);
}
PERDURE_TAKES_PLACE long __readlinkat_chk(int directory, const char* path, char* to, usize room, usize size) {
  const Outcome o = read_link(directory, path, to, room);
  return o.ours ? result(o.value)
                : PERDURE_NEXT(long(int, const char*, char*, usize, usize), __readlinkat_chk)(directory, path, to, room,
                                                                                              size);
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

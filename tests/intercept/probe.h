// Cases of the probe: plain system calls, plain errno.
#pragma once
#include <fcntl.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace probe {

struct Case {
  Case(const char* its_name, int (*its_run)(int, char**));
  const char* name;
  int (*run)(int, char**);
  const Case* next;
};

#define PROBE_CASE(name)                                  \
  static int name(int argc, char** argv);                 \
  static const ::probe::Case case_of_##name(#name, name); \
  static int name([[maybe_unused]] int argc, [[maybe_unused]] char** argv)

// Ends the case with a report unless it holds.
#define EXPECT(what)                                                                                         \
  do {                                                                                                       \
    errno = 0;                                                                                               \
    if (!(what)) {                                                                                           \
      std::fprintf(stderr, "%s:%d: %s (errno %d, %s)\n", __FILE__, __LINE__, #what, errno, strerror(errno)); \
      return 1;                                                                                              \
    }                                                                                                        \
  } while (false)
// The call fails with this error.
#define FAILS(error, call) EXPECT((call) < 0 && errno == (error))

inline constexpr unsigned long kIoasAlloc = 0x3b81;
inline constexpr unsigned long kIoasMap = 0x3b85;
inline constexpr unsigned long kDestroy = 0x3b80;
inline constexpr unsigned long kCreateSession = 0xba00;

struct IoasAlloc {
  uint32_t size = sizeof(IoasAlloc);
  uint32_t flags = 0;
  uint32_t out_ioas_id = 0;
};
struct PreserveFd {
  uint32_t size = sizeof(PreserveFd);
  int32_t fd = -1;
  uint64_t token = 0;
};
struct CreateSession {
  uint32_t size = sizeof(CreateSession);
  int32_t fd = -1;
  char name[64] = {};
};

inline constexpr unsigned long kRetrieveSession = 0xba01;
inline constexpr unsigned long kPreserveFd = 0xba40;
inline constexpr unsigned long kRetrieveFd = 0xba41;
inline constexpr unsigned long kFinish = 0xba42;

// -1 and errno.
inline int session(int device, unsigned long how, const char* name) {
  CreateSession create;
  std::snprintf(create.name, sizeof create.name, "%s", name);
  return ioctl(device, how, &create) == 0 ? create.fd : -1;
}

inline bool alloc_ioas(int fd) {
  IoasAlloc alloc;
  return ioctl(fd, kIoasAlloc, &alloc) == 0 && alloc.out_ioas_id != 0;
}

}  // namespace probe

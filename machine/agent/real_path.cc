// realpath(): the C library follows links itself, where nobody sees it.
#include <sys/syscall.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>

#include "machine/agent/next.h"
#include "machine/agent/raw.h"

extern "C" long readlink(const char* path, char* to, unsigned long room);

namespace perdure::agent {
namespace {

constexpr unsigned kMostLinks = 40;

// A path that grows at its end; always ended.
struct Text {
  char bytes[PATH_MAX] = {};
  usize size = 0;

  bool append(const char* from, usize n) {
    if (n >= sizeof bytes - size) return false;
    std::memcpy(bytes + size, from, n);
    size += n;
    bytes[size] = 0;
    return true;
  }
  void pop() {
    while (size > 0 && bytes[size - 1] != '/') --size;
    if (size > 0) --size;
    bytes[size] = 0;
  }
};

bool fail(int why) {
  errno = why;
  return false;
}

// What is left of a path comes behind a link's target.
bool put_before(Text& rest, usize done, const char* link, usize n) {
  Text next;
  if (!next.append(link, n) || !next.append("/", 1) || !next.append(rest.bytes + done, rest.size - done)) return false;
  rest = next;
  return true;
}

// Where `path` leads, by system calls that can be seen. False: errno.
bool walk(const char* path, Text& at) {
  Text rest;
  if (!rest.append(path, std::strlen(path))) return fail(ENAMETOOLONG);
  if (path[0] != '/') {
    const s64 n = raw(SYS_getcwd, address(at.bytes), sizeof at.bytes);
    if (n < 0) return fail(static_cast<int>(-n));
    at.size = std::strlen(at.bytes);
    if (at.size == 1) at.pop();
  }
  unsigned links = 0;
  for (usize done = 0; done < rest.size;) {
    const char* const part = rest.bytes + done;
    const usize n = std::strcspn(part, "/");
    done += n + (part[n] != 0 ? 1 : 0);
    if (n == 0 || (n == 1 && part[0] == '.')) continue;
    if (n == 2 && part[0] == '.' && part[1] == '.') {
      at.pop();
      continue;
    }
    if (!at.append("/", 1) || !at.append(part, n)) return fail(ENAMETOOLONG);
    char link[PATH_MAX];
    const long length = readlink(at.bytes, link, sizeof link);
    if (length < 0) {
      if (errno == EINVAL) continue;  // no link
      return false;
    }
    if (++links > kMostLinks) return fail(ELOOP);
    if (!put_before(rest, done, link, static_cast<usize>(length))) return fail(ENAMETOOLONG);
    done = 0;
    at.pop();
    if (link[0] == '/') at = {};
  }
  return at.size > 0 || at.append("/", 1);
}

// Files that the machine has in place of the host's, or beside them.
bool may_be_ours(const char* path) {
  return std::strncmp(path, "/sys/", 5) == 0 || std::strncmp(path, "/dev/", 5) == 0;
}

char* real_path(const char* path, char* to) {
  char* const host = PERDURE_NEXT(char*(const char*, char*), realpath)(path, to);
  if (path == nullptr || (host != nullptr ? !may_be_ours(host) : errno != ENOENT)) return host;
  if (to == nullptr) std::free(host);
  Text found;
  const int before = errno;
  if (!walk(path, found)) return nullptr;
  errno = before;
  if (to == nullptr) to = static_cast<char*>(std::malloc(found.size + 1));
  if (to != nullptr) std::memcpy(to, found.bytes, found.size + 1);
  return to;
}

}  // namespace
}  // namespace perdure::agent

// NOLINTBEGIN(bugprone-reserved-identifier,readability-identifier-naming): names that programs are linked with
PERDURE_TAKES_PLACE char* realpath(const char* path, char* to) noexcept {
  return perdure::agent::real_path(path, to);
}
PERDURE_TAKES_PLACE char* __realpath_chk(const char* path, char* to, unsigned long) noexcept {
  return perdure::agent::real_path(path, to);
}
PERDURE_TAKES_PLACE char* canonicalize_file_name(const char* path) noexcept {
  return perdure::agent::real_path(path, nullptr);
}
// NOLINTEND(bugprone-reserved-identifier,readability-identifier-naming)

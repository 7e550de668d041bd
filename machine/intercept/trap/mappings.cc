#include "machine/intercept/trap/mappings.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <string>

#include "machine/host/host_files.h"

namespace perdure::intercept {
namespace {

// PROCMAP_QUERY (Linux 6.11), which Debian 12's headers do not have.
struct Query {
  u64 size = sizeof(Query);
  u64 flags = 0;  // the area that holds the address
  u64 address = 0;
  u64 start = 0;
  u64 end = 0;
  u64 area_flags = 0;
  u64 page_size = 0;
  u64 offset = 0;
  u64 inode = 0;
  u32 major = 0;
  u32 minor = 0;
  u32 name_size = 0;
  u32 build_id_size = 0;
  u64 name = 0;
  u64 build_id = 0;
};
static_assert(sizeof(Query) == 104);
constexpr unsigned long kProcmapQuery = _IOWR('f', 17, Query);
constexpr u64 kReadable = 1;
constexpr u64 kWritable = 2;
constexpr u64 kShared = 8;

}  // namespace

Mappings::Mappings(pid_t thread, bool can_query)
    : maps_(open(("/proc/" + std::to_string(thread) + "/maps").c_str(), O_RDONLY | O_CLOEXEC)), can_query_(can_query) {}

Result<Mapping> Mappings::at(u64 address) {
  if (can_query_) {
    const auto found = query(address);
    if (found || found.error() != Errno::Enotty) return found;
    can_query_ = false;
  }
  return search(address);
}

Result<Mapping> Mappings::query(u64 address) const {
  Query q;
  q.address = address;
  if (ioctl(maps_.get(), kProcmapQuery, &q) != 0) {
    return fail(errno == ENOENT ? Errno::Efault : host::last_error());
  }
  return Mapping{.start = q.start,
                 .end = q.end,
                 .offset = q.offset,
                 .device = makedev(q.major, q.minor),
                 .inode = q.inode,
                 .readable = (q.area_flags & kReadable) != 0,
                 .writable = (q.area_flags & kWritable) != 0,
                 .shared = (q.area_flags & kShared) != 0};
}

Result<Mapping> Mappings::search(u64 address) const {
  std::string text;
  char chunk[4096];
  for (;;) {
    const ssize_t n = pread(maps_.get(), chunk, sizeof chunk, static_cast<off_t>(text.size()));
    if (n < 0) return fail(host::last_error());
    if (n == 0) break;
    text.append(chunk, static_cast<usize>(n));
  }
  for (usize at = 0; at < text.size(); at = text.find('\n', at) + 1) {
    Mapping m;
    unsigned major = 0;
    unsigned minor = 0;
    char flags[5] = {};
    if (std::sscanf(text.c_str() + at, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &m.start, &m.end,
                    flags, &m.offset, &major, &minor, &m.inode) != 7) {
      break;
    }
    if (address < m.start || address >= m.end) continue;
    m.device = makedev(major, minor);
    m.readable = flags[0] == 'r';
    m.writable = flags[1] == 'w';
    m.shared = flags[3] == 's';
    return m;
  }
  return fail(Errno::Efault);
}

}  // namespace perdure::intercept

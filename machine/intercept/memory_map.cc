#include "machine/intercept/memory_map.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "core/base/scope_guard.h"

namespace perdure::intercept {

namespace {

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
struct CloseDirectory {
  void operator()(DIR* directory) const { closedir(directory); }
};

// Memory that can be shared with another process, and not a file that is merely cached there.
bool is_shared_memory(int fd) {
  return fcntl(fd, F_GET_SEALS) >= 0;
}

bool is(int fd, FileId file) {
  struct stat st = {};
  return fstat(fd, &st) == 0 && FileId{st.st_dev, st.st_ino} == file;
}

}  // namespace

Result<MappedArea> area_at(const Target& target, u64 at) {
  const std::unique_ptr<std::FILE, CloseFile> maps(std::fopen(target.proc("maps").c_str(), "re"));
  if (!maps) return fail(Errno::Efault);
  char* line = nullptr;
  usize room = 0;
  const ScopeGuard release([&] { std::free(line); });
  while (getline(&line, &room, maps.get()) > 0) {
    MappedArea area;
    char flags[5] = {};
    unsigned major_number = 0;
    unsigned minor_number = 0;
    if (std::sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &area.start, &area.end, flags,
                    &area.offset, &major_number, &minor_number, &area.file.inode) != 7) {
      return fail(Errno::Efault);
    }
    if (at >= area.end) continue;
    if (at < area.start) break;  // they come in order
    area.readable = flags[0] == 'r';
    area.writable = flags[1] == 'w';
    area.shared = flags[3] == 's';
    area.file.device = makedev(major_number, minor_number);
    return area;
  }
  return fail(Errno::Efault);
}

host::Descriptor open_area(const Target& target, const MappedArea& area) {
  // The file of the mapping itself: for the privileged only.
  char name[64];
  std::snprintf(name, sizeof name, "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, target.process(), area.start, area.end);
  host::Descriptor file(open(name, O_RDWR | O_CLOEXEC));
  if (file && is(file.get(), area.file)) return is_shared_memory(file.get()) ? std::move(file) : host::Descriptor();
  // Else a descriptor of it that the program still has.
  const std::unique_ptr<DIR, CloseDirectory> directory(opendir(target.proc("fd").c_str()));
  while (const dirent* entry = directory ? readdir(directory.get()) : nullptr) {
    if (entry->d_name[0] == '.') continue;
    const s32 fd = std::atoi(entry->d_name);
    const auto id = target.file_id(fd);
    if (!id || *id != area.file) continue;
    auto copy = target.duplicate(fd);
    if (copy && is_shared_memory(copy->get())) return std::move(*copy);
  }
  return {};
}

}  // namespace perdure::intercept

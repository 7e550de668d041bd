// /proc/PID/status, which says what a process has pinned for devices: the host knows nothing of that.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <charconv>

#include "machine/host/host_files.h"
#include "machine/intercept/service.h"

namespace perdure::intercept {

using wire::Call;

namespace {

constexpr u64 kPageKib = 4;

std::string read_all(const std::string& path) {
  std::string text;
  char piece[4096];
  const host::Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  for (ssize_t n = 0; file && (n = read(file.get(), piece, sizeof piece)) > 0;)
    text.append(piece, static_cast<usize>(n));
  return text;
}

// "NAME:\t     123 kB\n"
void add_to_line(std::string& status, std::string_view name, u64 kib) {
  const usize line = status.find("\n" + std::string(name) + ":");
  if (line == std::string::npos) return;
  const usize begin = line + name.size() + 2;
  const usize end = status.find('\n', begin);
  const usize digits = status.find_first_of("0123456789", begin);
  if (end == std::string::npos || digits >= end) return;
  u64 before = 0;
  std::from_chars(status.data() + digits, status.data() + end, before);
  before += kib;
  char text[64];
  const int n = std::snprintf(text, sizeof text, "\t%8llu kB", static_cast<unsigned long long>(before));
  status.replace(begin, end - begin, text, static_cast<usize>(n));
}

}  // namespace

Result<Service::Outcome> Service::open_status(const SystemCall& call, s32 process, int flags) {
  if ((flags & (O_ACCMODE | O_PATH | O_DIRECTORY)) != O_RDONLY) return resume();
  const u32 number = static_cast<u32>(process);
  TRY(pass_on_closes());
  machine_.processes->watch(process);
  const auto pages = link_.call(Call::TaskMemory, {.task = wire::task_of(number, number)});
  if (!pages)
    return pages.error() == Errno::Ekilled ? Result<Outcome>(fail(Errno::Ekilled)) : Result<Outcome>(resume());
  if (pages->head.a == 0 && pages->head.b == 0) return resume();
  std::string status = read_all("/proc/" + std::to_string(process) + "/status");
  add_to_line(status, "VmPin", pages->head.a * kPageKib);
  add_to_line(status, "VmLck", pages->head.b * kPageKib);
  const host::Descriptor memory(memfd_create("status", MFD_CLOEXEC));
  if (!memory || write(memory.get(), status.data(), status.size()) != static_cast<ssize_t>(status.size())) {
    return resume();
  }
  const host::Descriptor theirs(
      ::open(("/proc/self/fd/" + std::to_string(memory.get())).c_str(), O_RDONLY | O_CLOEXEC));
  if (!theirs) return fail(host::last_error());
  return give(call, theirs.get(), flags);
}

}  // namespace perdure::intercept

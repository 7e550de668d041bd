// The next kernel, as programs load it and jump to it.
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "machine/intercept/service.h"

#ifndef KEXEC_FILE_UNLOAD
#define KEXEC_FILE_UNLOAD 0x00000001
#define KEXEC_FILE_ON_CRASH 0x00000002
#endif

namespace perdure::intercept {

using wire::Call;

// A program brings a file that would be a kernel for its machine. One that is a kernel for this machine is taken; any
// other stands for the machine's next kernel.
Result<Service::Outcome> Service::kexec_load(const SystemCall& call) {
  const Target target = TRY(target_of(call));
  const bool by_file = call.number == __NR_kexec_file_load;
  const u64 flags = by_file ? call.args[4] : call.args[3];
  if (by_file) {
    constexpr u64 kUnload = KEXEC_FILE_UNLOAD;
    // There is no memory set aside for a crash kernel.
    if ((flags & KEXEC_FILE_ON_CRASH) != 0) return fail(Errno::Eaddrnotavail);
    if ((flags & kUnload) != 0) return fail(Errno::Eopnotsupp);
  } else {
    if ((flags & KEXEC_ON_CRASH) != 0) return fail(Errno::Eaddrnotavail);
    if (call.args[1] == 0) return fail(Errno::Eopnotsupp);
  }
  if (by_file) {
    const s32 fd = call.fd();
    (void)TRY(target.file_id(fd));
    const std::string path = target.link("fd/" + std::to_string(fd)).value_or("");
    if (path.starts_with('/')) {
      const auto loaded = kernel(Call::KexecLoad, call, target, {}, path);
      if (loaded) return value(0);
      if (loaded.error() != Errno::Enoexec && loaded.error() != Errno::Enoent && loaded.error() != Errno::Eacces) {
        return fail(loaded.error());
      }
    }
  }
  TRY(kernel(Call::KexecLoad, call, target, {}));  // the next one in turn
  return value(0);
}

Result<Service::Outcome> Service::reboot(const SystemCall& call) {
  const auto magic = static_cast<u32>(call.args[0]);
  const auto second = static_cast<u32>(call.args[1]);
  const auto command = static_cast<u32>(call.args[2]);
  const bool second_valid = second == LINUX_REBOOT_MAGIC2 || second == LINUX_REBOOT_MAGIC2A ||
                            second == LINUX_REBOOT_MAGIC2B || second == LINUX_REBOOT_MAGIC2C;
  // The host is nobody's to reboot from in here.
  if (command != LINUX_REBOOT_CMD_KEXEC) return fail(Errno::Eperm);
  if (magic != LINUX_REBOOT_MAGIC1 || !second_valid) return fail(Errno::Einval);
  const Target target = TRY(target_of(call));
  const auto gone = kernel(Call::Kexec, call, target, {});
  if (gone) return value(0);
  // Nothing is loaded.
  return fail(gone.error() == Errno::Enoexec ? Errno::Einval : gone.error());
}

}  // namespace perdure::intercept

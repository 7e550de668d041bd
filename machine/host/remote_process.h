// The memory of another process, for as long as it has it: what devices reach of a program's private memory.
#pragma once
#include <sys/types.h>

#include <memory>
#include <optional>
#include <span>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::host {

// What a process has at an address.
struct MappedRange {
  u64 start = 0;
  u64 end = 0;
  u64 offset = 0;  // of `start` in the file
  u64 inode = 0;   // 0: no file
  u64 device = 0;
  bool readable = false;
  bool writable = false;
  bool shared = false;

  // Whether `address` still leads to what it led to in `before`, as far as that can be told: the same place of the same
  // file, or memory of no file as before. Bounds and protections may change without a page moving.
  bool same_place(const MappedRange& before, u64 address) const {
    return inode == before.inode && device == before.device && shared == before.shared &&
           (inode == 0 || offset + (address - start) == before.offset + (address - before.start));
  }
};

// Goes by open files of /proc, which stand for the memory itself and not for a number: after exec or exit they lead to
// nothing, whoever has the number then. Thread-safe.
class RemoteProcess {
 public:
  // Eacces where the host does not allow it (Yama, a process that is not dumpable); Enoent: there is no such process.
  static Result<std::shared_ptr<RemoteProcess>> open(pid_t process);
  // `memory`: /proc/<process>/mem, opened by somebody who may. Einval: it is not.
  static Result<std::shared_ptr<RemoteProcess>> adopt(pid_t process, Descriptor memory);

  // Whether the memory is still there; false for good after exec and exit.
  bool alive() const;
  // All of it or false. Protections do not matter, as they do not to a device whose pages are pinned.
  bool read(u64 from, std::span<std::byte> to) const;
  bool write(u64 to, std::span<const std::byte> from) const;
  // Enoent: nothing is mapped there.
  Result<MappedRange> mapped_at(u64 address) const;

  // The file of a shared mapping, also one without a name, where the host lets us: none where not, or not shared.
  Descriptor open_shared(const MappedRange& range) const;

  // No other one's of this process (the one that calls).
  u64 number() const { return number_; }
  pid_t process() const { return process_; }
  int memory() const { return memory_.get(); }

 private:
  RemoteProcess(pid_t process, Descriptor memory, Descriptor maps);
  Result<MappedRange> search(u64 address) const;
  const u64 number_;
  const pid_t process_;
  const Descriptor memory_;
  const Descriptor maps_;
};

}  // namespace perdure::host

#include "machine/process/wrapped_file.h"

#include <fcntl.h>

namespace perdure::process {

Result<Ref<File>> wrap_host_file(HostFiles& files, host::HostObjects& objects, host::Descriptor fd) {
  // A descriptor of a path is none of an open file: Linux's calls do not take it for one.
  if (const int flags = fcntl(fd.get(), F_GETFL); flags < 0 || (flags & O_PATH) != 0) return fail(Errno::Ebadf);
  switch (host::kind_of(fd.get())) {
    case host::HostKind::Memory: return Ref<File>(TRY(files.memory(TRY(host::open_memory(objects, std::move(fd))))));
    case host::HostKind::Event: return Ref<File>(TRY(files.event(TRY(host::open_event(objects, std::move(fd))))));
    case host::HostKind::Other: break;
  }
  return Ref<File>(Ref<OpaqueFile>::adopt(new OpaqueFile(objects)));
}

int host_descriptor(File& file) {
  auto* memory = file_cast<SharedMemory>(&file);
  return memory && !memory->remote() ? static_cast<host::Memfd&>(memory->host()).fd() : -1;
}

}  // namespace perdure::process

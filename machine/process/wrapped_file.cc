#include "machine/process/wrapped_file.h"

namespace perdure::process {

Result<Ref<File>> wrap_host_file(HostFiles& files, host::HostObjects& objects, host::Descriptor fd) {
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

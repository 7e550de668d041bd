#include "metal/program.h"

#include <algorithm>
#include <cstring>

#include "metal/layout.h"

namespace perdure::metal {

Program::~Program() {
  if (process_) process_->end();
  for (Mapping& m : mappings_) m = {};
  for (Ref<File>& f : files_) f = nullptr;
}

void Program::enter() {
  machine_.deliver_interrupts();
  kernel_.service();
}

template <class T>
Result<Ref<T>> Program::file_as(s32 fd) {
  const Ref<File> any = TRY(file(fd));
  T* const wanted = file_cast<T>(any.get());
  if (!wanted) return fail(Errno::Einval);
  return Ref<T>(wanted);
}

Result<s32> Program::install_new(Ref<File> file) {
  FdSlot slot = TRY(FdSlot::reserve(*this));
  const s32 number = slot.number();
  slot.install(std::move(file));
  return number;
}

// --- files ---------------------------------------------------------------------------------------------------------

Result<s32> Program::open(std::string_view path) {
  enter();
  FdSlot slot = TRY(FdSlot::reserve(*this));
  Ref<File> file = TRY(kernel_.open(path));
  const s32 number = slot.number();
  slot.install(std::move(file));
  return number;
}

Result<void> Program::close(s32 fd) {
  enter();
  const Ref<File> last = TRY(file(fd));
  files_[fd] = nullptr;
  return {};
}

Result<u64> Program::ioctl(s32 fd, u32 cmd, void* arg) {
  enter();
  const Ref<File> target = TRY(file(fd));
  return target->ioctl(*this, cmd, UserAddr(reinterpret_cast<u64>(arg)));
}

Result<usize> Program::pread(s32 fd, void* to, usize bytes, u64 pos) {
  enter();
  const Ref<File> target = TRY(file(fd));
  return target->read(*this, UserAddr(reinterpret_cast<u64>(to)), bytes, pos);
}

Result<usize> Program::pwrite(s32 fd, const void* from, usize bytes, u64 pos) {
  enter();
  const Ref<File> target = TRY(file(fd));
  return target->write(*this, UserAddr(reinterpret_cast<u64>(from)), bytes, pos);
}

// --- memory --------------------------------------------------------------------------------------------------------

Result<s32> Program::memfd_create(std::string_view) {
  Ref<SharedMemory> memory = TRY(kernel_.host_files().memory(TRY(machine_.share().create(0))));
  return install_new(std::move(memory));
}

Result<void> Program::ftruncate(s32 fd, u64 bytes) {
  return TRY(file_as<SharedMemory>(fd))
  ->resize(bytes);
}

Result<u64> Program::file_size(s32 fd) {
  return TRY(file_as<SharedMemory>(fd))
  ->size();
}

Result<void> Program::add_seals(s32 fd, u32 seals) {
  return TRY(file_as<SharedMemory>(fd))
  ->host().add_seals(seals);
}

Result<u32> Program::seals(s32 fd) {
  return TRY(file_as<SharedMemory>(fd))
  ->seals();
}

Result<u64> Program::memory_id(s32 fd) {
  return TRY(file_as<SharedMemory>(fd))
  ->id();
}

Result<std::byte*> Program::mmap(s32 fd, u64 offset, u64 length) {
  Ref<SharedMemory> memory = TRY(file_as<SharedMemory>(fd));
  for (Mapping& m : mappings_) {
    if (m.memory) continue;
    const MapTarget target = TRY(memory->mmap(*this, offset, align_up(length, kPageSize), Access::ReadWrite));
    std::byte* const at = machine_.virt(target.base);
    m = {.memory = std::move(memory), .at = reinterpret_cast<u64>(at), .offset = offset, .length = target.length};
    return at;
  }
  return fail(Errno::Enomem);
}

Result<void> Program::munmap(std::byte* at, u64 length) {
  for (Mapping& m : mappings_) {
    if (!m.memory || m.at != reinterpret_cast<u64>(at) || m.length != align_up(length, kPageSize)) continue;
    m = {};
    return {};
  }
  return fail(Errno::Einval);
}

Result<s32> Program::eventfd() {
  Ref<EventFd> event = TRY(kernel_.host_files().event(TRY(machine_.share().create_event())));
  return install_new(std::move(event));
}

Result<u64> Program::eventfd_read(s32 fd) {
  return static_cast<ShareEvent&>(TRY(file_as<EventFd>(fd))->host()).take();
}

void Program::pause() {
  machine_.relax();
  machine_.deliver_interrupts();
}

Result<void> Program::kexec_load(std::string_view kernel) {
  enter();
  return kernel_.kexec_load(kernel);
}

Result<void> Program::kexec() {
  enter();
  return kernel_.kexec();
}

// --- what the kernel asks of its caller ------------------------------------------------------------------------------

// A program's pointers are the kernel's: into the image, or into memory.
bool Program::accessible(u64 at, u64 length) const {
  if (range_overflows(at, length)) return false;
  if (at >= kDirectMap) return machine_.facts().is_ram(Phys(at - kDirectMap), length);
  return at >= reinterpret_cast<u64>(metal_image_begin) && at + length <= reinterpret_cast<u64>(metal_image_end);
}

Result<void> Program::copy_in(std::span<std::byte> to, UserAddr from) {
  if (!accessible(from.value, to.size())) return fail(Errno::Efault);
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that the program passed
  std::memcpy(to.data(), reinterpret_cast<const void*>(from.value), to.size());
  return {};
}

Result<void> Program::copy_out(UserAddr to, std::span<const std::byte> from) {
  if (!accessible(to.value, from.size())) return fail(Errno::Efault);
  // NOLINTNEXTLINE(performance-no-int-to-ptr)
  std::memcpy(reinterpret_cast<void*>(to.value), from.data(), from.size());
  return {};
}

Result<void> Program::resolve(UserAddr at, u64 length, Access,
                              FunctionRef<Result<void>(Ref<SharedMemory>, u64, u64)> piece) {
  for (u64 done = 0; done < length;) {
    const u64 from = at.value + done;
    const Mapping* const found = std::find_if(std::begin(mappings_), std::end(mappings_), [from](const Mapping& m) {
      return m.memory && from >= m.at && from - m.at < m.length;
    });
    if (found == std::end(mappings_)) return fail(Errno::Efault);
    const u64 into = from - found->at;
    const u64 n = std::min(found->length - into, length - done);
    TRY(piece(found->memory, found->offset + into, n));
    done += n;
  }
  return {};
}

Result<Ref<File>> Program::file(s32 fd) {
  if (fd < 0 || fd >= kMostFiles || !files_[fd]) return fail(Errno::Ebadf);
  return files_[fd];
}

Result<Ref<Process>> Program::process() {
  if (!process_) process_ = TRY(kernel_.heap().make_ref<ProgramProcess>(static_cast<Task&>(*this)));
  return Ref<Process>(process_.get());
}

Result<s32> Program::reserve_fd() {
  for (s32 fd = 0; fd < kMostFiles; ++fd) {
    if (files_[fd] || reserved_[fd]) continue;
    reserved_[fd] = true;
    return fd;
  }
  return fail(Errno::Emfile);
}

void Program::install_fd(s32 fd, Ref<File> file) {
  reserved_[fd] = false;
  files_[fd] = std::move(file);
}

}  // namespace perdure::metal

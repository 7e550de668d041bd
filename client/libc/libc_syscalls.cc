#include "client/libc/libc_syscalls.h"

#include <fcntl.h>
#include <linux/kexec.h>
#include <linux/reboot.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>

#include "client/fd.h"

namespace perdure::client {

namespace {

// A result of libc: -1 says that errno tells.
template <class T>
Result<T> checked(T value) {
  if (value == static_cast<T>(-1)) return fail(last_errno());
  return value;
}
Result<void> done(int status) {
  if (status != 0) return fail(last_errno());
  return {};
}

Result<std::string> running_command_line() {
  std::ifstream file("/proc/cmdline");
  std::string line;
  if (!std::getline(file, line)) return fail(Errno::Eio);
  return line;
}

}  // namespace

Errno last_errno() {
  return static_cast<Errno>(errno);
}

Result<s32> LibcSyscalls::open(std::string_view path) {
  return checked(::open(std::string(path).c_str(), O_RDWR | O_CLOEXEC));
}

Result<void> LibcSyscalls::close(s32 fd) {
  return done(::close(fd));
}

Result<u64> LibcSyscalls::ioctl(s32 fd, u32 cmd, void* arg) {
  return static_cast<u64>(TRY(checked(::ioctl(fd, cmd, arg))));
}

Result<usize> LibcSyscalls::pread(s32 fd, void* to, usize bytes, u64 pos) {
  return static_cast<usize>(TRY(checked(::pread(fd, to, bytes, static_cast<off_t>(pos)))));
}

Result<usize> LibcSyscalls::pwrite(s32 fd, const void* from, usize bytes, u64 pos) {
  return static_cast<usize>(TRY(checked(::pwrite(fd, from, bytes, static_cast<off_t>(pos)))));
}

Result<s32> LibcSyscalls::memfd_create(std::string_view name) {
  return checked(::memfd_create(std::string(name).c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
}

Result<void> LibcSyscalls::ftruncate(s32 fd, u64 bytes) {
  return done(::ftruncate(fd, static_cast<off_t>(bytes)));
}

Result<u64> LibcSyscalls::file_size(s32 fd) {
  struct stat st = {};
  TRY(done(fstat(fd, &st)));
  return static_cast<u64>(st.st_size);
}

Result<void> LibcSyscalls::add_seals(s32 fd, u32 seals) {
  return done(fcntl(fd, F_ADD_SEALS, seals));
}

Result<u32> LibcSyscalls::seals(s32 fd) {
  return static_cast<u32>(TRY(checked(fcntl(fd, F_GET_SEALS))));
}

// Memfds live on one file system of the kernel, so the rest of the number is the inode's.
Result<u64> LibcSyscalls::memory_id(s32 fd) {
  struct stat st = {};
  TRY(done(fstat(fd, &st)));
  return static_cast<u64>(st.st_dev) << 40 | static_cast<u64>(st.st_ino);
}

Result<std::byte*> LibcSyscalls::mmap(s32 fd, u64 offset, u64 length) {
  void* const at = ::mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, static_cast<off_t>(offset));
  if (at == MAP_FAILED) return fail(last_errno());
  return static_cast<std::byte*>(at);
}

Result<void> LibcSyscalls::munmap(std::byte* at, u64 length) {
  return done(::munmap(at, length));
}

Result<s32> LibcSyscalls::eventfd() {
  return checked(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
}

Result<u64> LibcSyscalls::eventfd_read(s32 fd) {
  u64 count = 0;
  if (::read(fd, &count, sizeof count) == static_cast<ssize_t>(sizeof count)) return count;
  if (errno == EAGAIN) return u64{0};
  return fail(last_errno());
}

u64 LibcSyscalls::now_ns() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * 1'000'000'000 + static_cast<u64>(now.tv_nsec);
}

void LibcSyscalls::pause() {
  poll(nullptr, 0, 1);
}

Result<void> LibcSyscalls::kexec_load(std::string_view kernel) {
  const auto open_image = [this](const std::string& path) -> Result<Fd> {
    return Fd(*this, TRY(checked(::open(path.c_str(), O_RDONLY | O_CLOEXEC))));
  };
  const Fd image = TRY(open_image(std::string(kernel)));
  const Fd initrd = kexec_.initrd.empty() ? Fd() : TRY(open_image(kexec_.initrd));
  const std::string line = kexec_.command_line.empty() ? TRY(running_command_line()) : kexec_.command_line;
  const unsigned long flags = initrd ? 0 : KEXEC_FILE_NO_INITRAMFS;
  // The length counts the NUL.
  TRY(checked(syscall(SYS_kexec_file_load, image.number(), initrd.number(), line.size() + 1, line.c_str(), flags)));
  return {};
}

Result<void> LibcSyscalls::kexec() {
  TRY(checked(syscall(SYS_reboot, LINUX_REBOOT_MAGIC1, LINUX_REBOOT_MAGIC2, LINUX_REBOOT_CMD_KEXEC,
                      static_cast<void*>(nullptr))));
  return {};
}

}  // namespace perdure::client

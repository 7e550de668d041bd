#include "machine/intercept/trap/ptrace_state.h"

#include <elf.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "machine/host/host_files.h"

namespace perdure::intercept {
namespace {
constexpr usize kMostBytes = usize{16} << 10;  // AMX tiles take 8 KiB of it
}

CpuState to_cpu_state(const user_regs_struct& r) {
  CpuState cpu;
  const unsigned long long general[] = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                                        r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
  for (unsigned i = 0; i < 16; ++i) cpu.general[i] = general[i];
  cpu.rip = r.rip;
  cpu.flags = r.eflags;
  cpu.fs_base = r.fs_base;
  cpu.gs_base = r.gs_base;
  return cpu;
}

void from_cpu_state(const CpuState& cpu, user_regs_struct& r) {
  unsigned long long* const general[] = {&r.rax, &r.rcx, &r.rdx, &r.rbx, &r.rsp, &r.rbp, &r.rsi, &r.rdi,
                                         &r.r8,  &r.r9,  &r.r10, &r.r11, &r.r12, &r.r13, &r.r14, &r.r15};
  for (unsigned i = 0; i < 16; ++i) *general[i] = cpu.general[i];
  r.rip = cpu.rip;
  r.eflags = cpu.flags;
}

Result<std::vector<std::byte>> read_vectors(pid_t thread) {
  std::vector<std::byte> area(kMostBytes);
  iovec all = {area.data(), area.size()};
  if (ptrace(PTRACE_GETREGSET, thread, NT_X86_XSTATE, &all) != 0) return fail(host::last_error());
  area.resize(all.iov_len);
  return area;
}

Result<void> write_vectors(pid_t thread, std::vector<std::byte>& area) {
  iovec all = {area.data(), area.size()};
  if (ptrace(PTRACE_SETREGSET, thread, NT_X86_XSTATE, &all) != 0) return fail(host::last_error());
  return {};
}

}  // namespace perdure::intercept

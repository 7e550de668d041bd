#include "machine/intercept/trap/follower.h"

#include <dirent.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>

#include "machine/host/host_files.h"
#include "machine/intercept/trap/emulator.h"
#include "machine/intercept/trap/proc_status.h"
#include "machine/intercept/trap/ptrace_state.h"
#include "machine/intercept/trap/traced_memory.h"

namespace perdure::intercept {
namespace {

constexpr u64 kOptions =
    PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC | PTRACE_O_TRACEEXIT;
constexpr unsigned long long kCode64 = 0x33;  // the code segment of 64-bit programs

// PTRACE_EVENT_STOP of a thread that stops with its process, as Ctrl-Z does.
bool stops_the_process(int signal) {
  return signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU;
}

void* as_pointer(u64 value) {
  return reinterpret_cast<void*>(value);
}

// A thread that died meanwhile is nothing to tell of: wait() will.
void go_on(pid_t thread, int signal) {
  ptrace(PTRACE_CONT, thread, nullptr, as_pointer(static_cast<u64>(signal)));
}

std::vector<pid_t> threads_of(pid_t process) {
  std::vector<pid_t> threads;
  DIR* const dir = opendir(("/proc/" + std::to_string(process) + "/task").c_str());
  if (dir == nullptr) return threads;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] != '.') threads.push_back(std::atoi(entry->d_name));
  }
  closedir(dir);
  return threads;
}

}  // namespace

// Threads that a traced thread starts are traced from their first instruction; so once a look at all threads finds none
// that is not, there are no others.
Result<void> Tracer::Follower::seize() {
  std::unordered_set<pid_t> seen;
  for (bool found = true; found;) {
    found = false;
    for (const pid_t thread : threads_of(process_)) {
      if (!seen.insert(thread).second) continue;
      found = true;
      if (ptrace(PTRACE_SEIZE, thread, nullptr, as_pointer(kOptions)) == 0) continue;
      const Errno why = host::last_error();
      const auto state = proc_status(thread, "State");
      if (!state || state->starts_with('Z') || state->starts_with('X')) continue;  // ended meanwhile
      const auto by = tracer_of(thread);
      if (by == gettid()) continue;
      return fail(by.value_or(0) != 0 ? Errno::Ebusy : why);
    }
  }
  if (seen.empty()) return fail(Errno::Esrch);
  return {};
}

void Tracer::Follower::run() {
  for (;;) {
    int status = 0;
    // Not children of other threads, which somebody else waits for.
    const pid_t thread = waitpid(-1, &status, __WALL | __WNOTHREAD);
    if (thread < 0) {
      if (errno == EINTR) continue;
      break;
    }
    if (WIFSTOPPED(status)) {
      stopped(thread, status);
    } else {
      mappings_.erase(thread);
      // Of a process: its first thread's is the last to be told.
      if (tracer_.ended_) tracer_.ended_(thread, status);
    }
  }
}

void Tracer::Follower::stopped(pid_t thread, int status) {
  int signal = WSTOPSIG(status);
  switch (status >> 16) {
    case 0:
      if (signal == SIGBUS && carry_out(thread, signal)) signal = 0;
      go_on(thread, signal);
      break;
    case PTRACE_EVENT_STOP:
      if (stops_the_process(signal)) {
        ptrace(PTRACE_LISTEN, thread, nullptr, nullptr);
      } else {
        go_on(thread, 0);
      }
      break;
    case PTRACE_EVENT_EXEC:
      // Another address space: no registers are mapped in it. Whoever maps some is followed anew.
    case PTRACE_EVENT_EXIT:
      // It touches nothing any more. Let go before it is dead: while a tracer has yet to be told of an end, its pidfd
      // is readable, but its parent's wait() finds nothing.
      mappings_.erase(thread);
      ptrace(PTRACE_DETACH, thread, nullptr, nullptr);
      break;
    default: go_on(thread, 0); break;
  }
}

Mappings& Tracer::Follower::mappings(pid_t thread) {
  return mappings_.try_emplace(thread, thread).first->second;
}

bool Tracer::Follower::carry_out(pid_t thread, int& signal) {
  siginfo_t info = {};
  user_regs_struct regs = {};
  if (ptrace(PTRACE_GETSIGINFO, thread, nullptr, &info) != 0) return false;
  if (info.si_code != BUS_ADRERR) return false;  // sent by somebody, or memory that is broken
  const u64 address = reinterpret_cast<u64>(info.si_addr);
  const auto mapped = mappings(thread).at(address);
  if (!mapped || !mapped->shared || !bus_->ours(mapped->device, mapped->inode)) return false;
  if (ptrace(PTRACE_GETREGS, thread, nullptr, &regs) != 0 || regs.cs != kCode64) return false;

  CpuState cpu = to_cpu_state(regs);
  u8 code[kMaxInstruction] = {};
  const iovec here = {code, sizeof code};
  const iovec there = {as_pointer(cpu.rip), sizeof code};
  const ssize_t fetched = process_vm_readv(thread, &here, 1, &there, 1, 0);  // less at the end of a mapping
  Instruction instruction;
  if (fetched <= 0 || !instruction.decode(std::span(code).first(static_cast<usize>(fetched)))) return false;

  std::vector<std::byte> area;
  if (instruction.uses_vectors()) {
    auto read = read_vectors(thread);
    if (!read) return false;
    area = std::move(*read);
  }
  VectorState vectors{std::span(area)};
  TracedMemory memory(thread, mappings(thread), *mapped, *bus_);
  const Outcome outcome = emulate(instruction, cpu, vectors, memory);

  // Repetitions that are done stay done.
  from_cpu_state(cpu, regs);
  if (ptrace(PTRACE_SETREGS, thread, nullptr, &regs) != 0) return false;
  if (!area.empty() && outcome.verdict == Verdict::Done && !write_vectors(thread, area)) return false;
  switch (outcome.verdict) {
    case Verdict::Done: return true;
    case Verdict::Unsupported: {
      char text[160];
      char line[320];
      instruction.describe(regs.rip, text);
      std::snprintf(line, sizeof line,
                    "%d: SIGBUS: \"%s\" at 0x%" PRIx64
                    " on a device's registers is none of the instructions that are "
                    "carried out",
                    thread, text, static_cast<u64>(regs.rip));
      if (tracer_.log_) tracer_.log_(line);
      return false;
    }
    case Verdict::Fault:
      info.si_signo = signal = SIGSEGV;
      info.si_code = SEGV_MAPERR;
      break;
    case Verdict::Bus: break;
  }
  info.si_addr = as_pointer(outcome.address);
  ptrace(PTRACE_SETSIGINFO, thread, nullptr, &info);
  return false;
}

}  // namespace perdure::intercept

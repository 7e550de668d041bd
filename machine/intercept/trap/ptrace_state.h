// A stopped thread's registers, by ptrace.
#pragma once
#include <sys/types.h>
#include <sys/user.h>

#include <vector>

#include "core/base/result.h"
#include "machine/intercept/trap/cpu_state.h"

namespace perdure::intercept {

CpuState to_cpu_state(const user_regs_struct& regs);
void from_cpu_state(const CpuState& cpu, user_regs_struct& regs);

// The XSAVE area, sized as this host has it. Esrch and others when the thread is gone.
Result<std::vector<std::byte>> read_vectors(pid_t thread);
Result<void> write_vectors(pid_t thread, std::vector<std::byte>& area);

}  // namespace perdure::intercept

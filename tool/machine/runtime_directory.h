// Where machines that stay keep their sockets: a directory of this user alone, and one in it for each machine.
//
//   $XDG_RUNTIME_DIR/perdure/NAME/   or /tmp/perdure-UID/NAME/ where there is no XDG_RUNTIME_DIR
//     lock       locked by the machine's board process as long as it lives
//     machine    who that is (JSON); written when the machine can be talked to
//     control    the board process's socket (control.h)
//     kernel     the kernel process's: system calls (machine/wire)
//     log, log.1 what kernels said
#pragma once
#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/result.h"
#include "core/base/types.h"
#include "machine/host/descriptor.h"

namespace perdure::tool {

// What is wrong, in words that say what to do; `why` is for programs.
class MachineError : public std::runtime_error {
 public:
  MachineError(Errno why, const std::string& what) : std::runtime_error(what), why_(why) {}
  Errno why() const { return why_; }

 private:
  Errno why_;
};

// A process that cannot be mistaken for another one that got its number later.
struct ProcessId {
  pid_t pid = 0;
  u64 start_time = 0;  // clock ticks after boot, /proc/PID/stat
  bool operator==(const ProcessId&) const = default;
};
std::optional<ProcessId> process_of(pid_t pid);
inline bool runs(const ProcessId& process) {
  return process_of(process.pid) == process;
}

// Throws MachineError (Einval) unless it can be a directory's name that needs no quotes anywhere: letters, digits, '-',
// '_' and '.', 64 at most, the first a letter or a digit.
void check_name(std::string_view name);

// Made if it is not there. Throws MachineError (Eacces): it is not this user's alone.
std::filesystem::path runtime_directory();
// The same without making it; empty: it is not there.
std::filesystem::path existing_runtime_directory();

// Of one machine, whether it is there or not.
std::filesystem::path machine_directory(std::string_view name);

// What a directory says of its machine.
struct MachineRecord {
  std::string name;
  ProcessId board;
  std::string started;  // when, in words
  std::string config;   // the file that it was read from; empty: the defaults
};
void write_record(const std::filesystem::path& directory, const MachineRecord& record);

struct Found {
  enum class State : u8 {
    Absent,    // no such machine
    Starting,  // somebody has it locked, and it does not answer yet, or is about to end
    Running,
    Stale,  // it ended without tidying up
  };
  State state = State::Absent;
  std::filesystem::path directory;
  MachineRecord record;  // when it is running or stale
};
// Throws MachineError as above.
Found find_machine(std::string_view name);
// Of every machine that has a directory, by name.
std::vector<Found> find_machines();

// The directory of a machine that is to be started, made, tidied up and locked. Throws MachineError: Eexist when it is
// running, or somebody else starts or ends it at this moment.
struct Claimed {
  std::filesystem::path directory;
  host::Descriptor lock;
};
Claimed claim(std::string_view name);
// Removes what a machine left that ended without tidying up; false when it runs after all.
bool tidy(const Found& stale);
// Removes a directory whose lock the caller holds, the lock last.
void remove_locked(const std::filesystem::path& directory);

// Where `perdure run` finds the kernel of a machine: the path of its system-call socket. Throws MachineError: Enoent,
// Eestale (it ended), Eagain (it is starting), Eacces.
std::filesystem::path machine_socket(std::string_view name);

inline constexpr std::string_view kControlSocket = "control";
inline constexpr std::string_view kKernelSocket = "kernel";
inline constexpr std::string_view kLogFile = "log";

}  // namespace perdure::tool

// A front end as the kernel sees it: one table of handles, shared by its connections, and an event channel.
#pragma once
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>

#include "core/file/host_files.h"
#include "machine/host/host_files.h"
#include "machine/process/front_process.h"
#include "machine/wire/channel.h"

namespace perdure::process {

class Front {
 public:
  Front(u64 its_id, HostFiles& files, host::HostObjects& objects);
  // Closes its handles in the order of their numbers, as a dying Linux process does.
  ~Front();
  Front(const Front&) = delete;
  Front& operator=(const Front&) = delete;

  // Handles are never used twice, so that a late call cannot meet a newer file. Enfile.
  Result<u64> insert(Ref<File> file);
  Result<Ref<File>> find(u64 handle);  // Ebadf
  Result<void> close(u64 handle);      // Ebadf

  // The process with this number, as it is now: one object until it ends or begins another program.
  Result<Ref<FrontProcess>> process(u32 tgid);
  void forget_process(u32 tgid);

  // There will be a channel for events: events that come wait for it. Ebusy: there is one already.
  Result<void> claim_events();
  // This is it, until clear_events().
  void set_events(wire::Channel& channel);
  void clear_events();
  // Asks the supervisor to end its programs. False: there is nobody to ask.
  bool send_reboot(std::chrono::steady_clock::time_point until);
  // Waits for its answer until then. False: it neither answered nor hung up.
  bool await_reboot(std::chrono::steady_clock::time_point until);

  const u64 id;
  HostFiles& host_files;
  host::HostObjects& host_objects;

 private:
  static constexpr usize kMost = usize{1} << 20;
  static constexpr u64 kLastHandle = 0x7fffffff;
  std::mutex mutex_;
  std::map<u64, Ref<File>> files_;
  // A program that knows of the wire uses them as descriptor numbers.
  u64 next_;
  std::map<u32, Ref<FrontProcess>> processes_;
  std::mutex events_mutex_;
  std::condition_variable events_known_;
  bool events_claimed_ = false;
  wire::Channel* events_ = nullptr;
  u64 reboots_ = 0;  // asked for
};

// All fronts of a kernel. Ids are not guessable: who joins a front has been told.
class Fronts {
 public:
  Fronts(HostFiles& files, host::HostObjects& objects) : host_files_(files), host_objects_(objects) {}
  std::shared_ptr<Front> create();
  Result<std::shared_ptr<Front>> join(u64 id);  // Enoent
  // The machine is about to be another kernel's: every supervisor ends its programs. Returns how many did not say in
  // time that they are gone.
  unsigned reboot(std::chrono::milliseconds patience);

 private:
  HostFiles& host_files_;
  host::HostObjects& host_objects_;
  std::mutex mutex_;
  std::map<u64, std::weak_ptr<Front>> fronts_;
};

}  // namespace perdure::process

// Ranked, annotated mutex. The compiler (clang) checks which lock guards what; at run time a lock may be
// taken only while every lock already held has a lower rank, so a lock-order inversion shows on the
// first run through it, not on the unlucky one.
#pragma once
#include <atomic>

#include "core/base/platform.h"
#include "core/base/thread_safety.h"

namespace perdure {

// Outermost first; see docs/architecture.md, "Lock order".
enum class LockRank : u8 {
  LuoSerialize,     // L1 of kho-luo §2.3
  LuoSessions,      // L2
  LuoSession,       // L3
  LuoFile,          // L4
  LuoRegistry,      // handler and FLB registration
  LuoFlb,           // one FLB's state
  VfioGroup,        // who has a group open, and its container
  VfioContainer,    // a container's groups and mappings
  VfioDevice,       // devices that a reset of their bus would reset together
  Iommufd,          // one context: object table and live-update state
  Ioas,             // areas and domains of one IOAS
  IoasPages,        // what is pinned of one mapping's memory
  IommuLiveUpdate,  // records and the restored model
  IommuGroup,       // ownership and attachment of one group
  IommuRestored,    // a restored domain that another one is about to take over from
  IommuDomain,      // page table and attachment list of one domain
  VtdUnit,          // DID space, root and context tables
  VtdInterrupts,    // interrupt remapping table
  VtdQueue,         // invalidation queue
  PciLiveUpdate,    // records of preserved functions and bridges
  Pci,              // config space sequences
  Files,            // host-file registry, shared memory extents
  Tasks,            // a front end's tables
  KhoTracker,       // radix tree and FDT
  Arena,            // one table arena
  Heap,
  Frames,
  Leaf,  // takes nothing else while held
};

class CAPABILITY("mutex") Mutex {
 public:
  explicit Mutex(LockRank rank) : rank_(rank) {}
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void lock() ACQUIRE();
  void unlock() RELEASE();
  // Run-time and compile-time statement that the caller's caller holds this lock (the series was asked
  // for lockdep assertions, R05); panics if not.
  void assert_held() const ASSERT_CAPABILITY(this);
  bool held_by_me() const;
  LockRank rank() const { return rank_; }

 private:
  std::atomic<u32> state_{0};
  const LockRank rank_;
};

class SCOPED_CAPABILITY MutexGuard {
 public:
  explicit MutexGuard(Mutex& m) ACQUIRE(m) : mutex_(m) { mutex_.lock(); }
  ~MutexGuard() RELEASE() { mutex_.unlock(); }
  MutexGuard(const MutexGuard&) = delete;
  MutexGuard& operator=(const MutexGuard&) = delete;

 private:
  Mutex& mutex_;
};

}  // namespace perdure

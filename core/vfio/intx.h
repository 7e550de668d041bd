// The interrupt pin of a function, to an eventfd (uapi §3.5).
#pragma once
#include "core/base/lock.h"
#include "core/base/machine.h"
#include "core/file/shared_memory.h"
#include "core/pci/source_id.h"

namespace perdure::vfio {

// The line is level-triggered: each interrupt masks it, until the program has made the device take its request back
// and unmasks it; what is still asserted then interrupts again. A program masks it for two reasons, which are kept
// apart: by SET_IRQS, and by the command register's disable bit, which only it gets to see.
//
// Calls are serialised by the device's lock, but for raise().
class Intx final : private IrqSink {
 public:
  Intx(Machine& machine, SourceId source, u8 pin) : machine_(machine), line_{source.segment, source.bdf, pin} {}
  ~Intx() { PERDURE_ASSERT(!on_); }
  Intx(const Intx&) = delete;
  Intx& operator=(const Intx&) = delete;

  // The function has a pin, and it leads somewhere.
  bool there() const { return line_.pin != 0 && machine_.has_line(line_); }
  bool on() const { return on_; }

  // With `event`, or none: the line is used up without one. Enodev, Ebusy: the machine's.
  Result<void> enable(Ref<EventFd> event, bool disabled);
  // Another event, or none; what it was before is the caller's to drop.
  [[nodiscard]] Ref<EventFd> set_event(Ref<EventFd> event);
  // Both events are the caller's to drop.
  void disable(Ref<EventFd>& event, Ref<EventFd>& unmask_event);
  // As if it had come.
  void trigger();
  void mask();
  void unmask();
  // The command register's bit.
  void set_disabled(bool disabled);
  // Unmasks whenever it is signalled. Ebusy: there is one. Null: no more; what there was is the caller's to drop.
  Result<Ref<EventFd>> set_unmask_event(Ref<EventFd> event);
  // Looks whether it was.
  void service();

 private:
  void raise() override;
  void update_line(bool masked);

  Machine& machine_;
  const InterruptLine line_;
  bool on_ = false;
  bool disabled_ = false;
  Ref<EventFd> unmask_event_;
  Mutex lock_{LockRank::Leaf};
  Ref<EventFd> event_ GUARDED_BY(lock_);
  bool masked_ GUARDED_BY(lock_) = false;
};

}  // namespace perdure::vfio

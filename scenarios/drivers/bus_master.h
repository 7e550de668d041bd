// A device that masters the bus by itself, in a program's hands: what its drivers have in common.
//
// What the next kernel's program needs to go on (ring positions, sequence numbers, transfers under way) lies in a
// structure `State` of each driver, in memory that is preserved. After a jump resume() takes the place of start():
// it reads, and nothing at the device is set up again.
#pragma once
#include <string_view>

#include "client/vfio_device.h"
#include "core/base/hw.h"
#include "core/uapi/vfio.h"
#include "scenarios/context.h"

namespace perdure::scenarios {

// A stretch of guest memory, as its program and as a device sees it.
struct DmaArea {
  std::byte* at = nullptr;
  u64 iova = 0;
  u64 length = 0;

  template <class T>
  T* word(u64 offset) const {
    return reinterpret_cast<T*>(at + offset);
  }
  DmaArea part(u64 offset, u64 bytes) const { return {at + offset, iova + offset, bytes}; }
  void fill(u64 value) const {
    for (u64 i = 0; i < length; i += 8) hw::store(word<u64>(i), value);
  }
};

// What a device's own numbers and its memory say.
struct Evidence {
  struct Number {
    std::string_view name;
    u64 value = 0;
  };
  static constexpr u32 kMost = 12;

  std::string_view device;
  bool present = false;
  bool lost = false;  // the kernel has stopped it
  bool ok = false;
  std::string_view what;  // when not ok
  Number numbers[kMost];
  u32 count = 0;

  void add(std::string_view name, u64 value) {
    if (count < kMost) numbers[count++] = {name, value};
  }
  // 0: no such number.
  u64 number(std::string_view name) const {
    for (u32 i = 0; i < count; ++i) {
      if (numbers[i].name == name) return numbers[i].value;
    }
    return 0;
  }
};

class BusMaster {
 public:
  // The device is reset, set up, and works from then on.
  virtual Result<void> start() = 0;
  // After a jump: the device must be as the former kernel's program left it. Eio.
  virtual Result<void> resume() = 0;
  // The device's own signs of failure, and all that it has done since the last call. Patient: waits until it has done
  // something that began after the call. Eio: what() says why.
  virtual Result<void> check(bool patient) = 0;
  // The last thing before a jump: the device gets work that outlives the program.
  virtual Result<void> leave() = 0;
  virtual void report(Evidence& evidence) const = 0;

  std::string_view what() const { return what_; }

 protected:
  static constexpr u64 kPatienceNs = 10'000'000'000;

  BusMaster(Context context, const client::VfioDevice& device, DmaArea area)
      : context_(context), device_(device), area_(area) {}
  ~BusMaster() = default;

  // The first thing that is found wrong is the one to tell.
  std::unexpected<Errno> wrong(std::string_view what) {
    if (what_.empty()) what_ = what;
    return fail(Errno::Eio);
  }
  void forget_wrong() { what_ = {}; }

  // Until `done()` is true; false: it never became true. Does not look at the clock, which can be slow, if it is true
  // at once.
  template <class Done>
  Result<bool> wait_until(u64 ns, Done done) {
    if (TRY(done())) return true;
    const u64 begin = context_.sys.now_ns();
    for (;;) {
      context_.sys.pause();
      if (TRY(done())) return true;
      if (context_.sys.now_ns() - begin > ns) return false;
    }
  }

  Result<u32> get32(u64 offset) const { return static_cast<u32>(TRY(device_.read(registers_, offset, 4))); }
  Result<void> set32(u64 offset, u32 value) const { return device_.write(registers_, offset, 4, value); }
  // In halves, which every device takes.
  Result<u64> get64(u64 offset) const {
    return TRY(get32(offset))
    | u64 {
      TRY(get32(offset + 4))
    }
    << 32;
  }
  Result<void> set64(u64 offset, u64 value) const {
    TRY(set32(offset, static_cast<u32>(value)));
    return set32(offset + 4, static_cast<u32>(value >> 32));
  }
  Result<void> find_registers() {
    registers_ = TRY(device_.region(0));
    return {};
  }
  // Errors of its requests that the function has recorded: parity, aborts, system error.
  Result<u32> bus_errors() const {
    constexpr u64 kStatus = 6;
    constexpr u32 kErrors = 0xF900;
    const client::Region config = TRY(device_.region(uapi::vfio_region::kConfig));
    return static_cast<u32>(TRY(device_.read(config, kStatus, 2))) & kErrors;
  }

  Context context_;
  const client::VfioDevice& device_;
  const DmaArea area_;
  client::Region registers_;

 private:
  std::string_view what_;
};

}  // namespace perdure::scenarios

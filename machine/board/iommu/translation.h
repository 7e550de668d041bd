// A request on the bus and what the unit answers.
#pragma once
#include <utility>

#include "core/base/types.h"

namespace perdure::board {

class IommuModel;

enum class Access : u8 { Read, Write };

// The AT field of a request: ordinary, or those of a device that keeps its own translations.
enum class RequestType : u8 { Untranslated, TranslationRequest, Translated };

enum class Verdict : u8 {
  Translated,    // through a page table
  PassThrough,   // by an entry that says so
  Untranslated,  // the unit is off: address as is
  Interrupt,     // a write into 0xFEE0'0000..0xFEEF'FFFF: a message, not memory
  Blocked,       // aborted; `fault` says why
};

// Keeps a transfer on record while the device moves its data, so that an invalidation with drain completes only after
// transfers that used the old translation. Destroy it when the data is moved, on any thread, not later than the model.
class InFlight {
 public:
  InFlight() = default;
  InFlight(InFlight&& other) noexcept { swap(other); }
  InFlight& operator=(InFlight&& other) noexcept {
    InFlight moved(std::move(other));
    swap(moved);
    return *this;
  }
  ~InFlight() {
    if (model_ != nullptr) release();
  }

 private:
  friend class IommuModel;
  InFlight(IommuModel* model, u64 epoch, Access access) : model_(model), epoch_(epoch), access_(access) {}
  void swap(InFlight& other) noexcept {
    std::swap(model_, other.model_);
    std::swap(epoch_, other.epoch_);
    std::swap(access_, other.access_);
  }
  void release();

  IommuModel* model_ = nullptr;
  u64 epoch_ = 0;
  Access access_ = Access::Read;
};

struct Translation {
  Verdict verdict = Verdict::Blocked;
  u8 fault = 0;           // reason code; 0 when blocked without one (abort mode, protected memory)
  bool recorded = false;  // the fault is in a fault record
  u64 phys = 0;
  u64 length = 0;  // bytes from phys on that this answer covers, at most what was asked for; 0 when blocked
  InFlight in_flight;

  bool ok() const { return verdict != Verdict::Blocked; }
};

}  // namespace perdure::board

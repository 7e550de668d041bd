// What enumeration needs to know of a former kernel's functions that are still at work (design §7).
#pragma once
#include "core/base/types.h"
#include "core/pci/source_id.h"

namespace perdure::pci {

class Function;

enum class Inherited : u8 {
  No,         // may be written to
  Preserved,  // at work, or a bridge above one that is, and as the former kernel recorded it: not written to
  Refused,    // not as recorded, or at work without a record that can be believed: not written to, but stopped
};

class Inheritance {
 public:
  // Called for every function that is met, parents before children, before anything is written to it; a bridge may have
  // lost bus numbers before, see buses_taken(). Gives the function what it cannot be asked while it works: BAR sizes.
  virtual Inherited identify(Function& function) = 0;
  // False: no number is on the way to anything, and buses_taken() need not be asked.
  virtual bool takes_buses() const = 0;
  // Whether one of the numbers first..last is on the way to functions at work, and `bridge`, which claims them, is not.
  virtual bool buses_taken(SourceId bridge, u8 first, u8 last) const = 0;

 protected:
  ~Inheritance() = default;
};

}  // namespace perdure::pci

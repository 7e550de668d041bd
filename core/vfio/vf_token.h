// The secret that physical function and virtual functions share, when programs drive them (uapi §3.3, §3.8).
#pragma once
#include <string_view>

#include "core/base/lock.h"
#include "core/base/result.h"
#include "core/base/types.h"

namespace perdure::vfio {

struct Uuid {
  u8 bytes[16] = {};
  bool operator==(const Uuid&) const = default;
};

inline constexpr usize kUuidText = 36;
// As text in the name that a group is asked for: 8-4-4-4-12 hexadecimal digits. Einval.
Result<Uuid> parse_uuid(std::string_view text);

// A physical function's. Until one was set nobody knows it, and no virtual function can be opened.
class VfToken {
 public:
  void set(const Uuid& uuid);
  bool is(const Uuid& uuid) const;
  // Somebody opens the physical function: with virtual functions in use he has to know it (Eacces), else what he brings
  // becomes it.
  Result<void> admit_physical(const Uuid* given);
  // Openings of virtual functions.
  void add_user();
  void drop_user();

 private:
  mutable Mutex lock_{LockRank::Leaf};
  Uuid uuid_ GUARDED_BY(lock_);
  bool known_ GUARDED_BY(lock_) = false;
  u32 users_ GUARDED_BY(lock_) = 0;
};

}  // namespace perdure::vfio

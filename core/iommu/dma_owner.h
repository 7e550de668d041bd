// Who controls a group's DMA.
#pragma once
#include "core/base/ref.h"
#include "core/base/types.h"

namespace perdure {

enum class Ownership : u8 {
  Unowned,
  HeldForSession,  // preserved by the former kernel; waits for (generation, token)
  Owned,
  Quarantined,  // blocked for good; leaves only by a function reset with the entry blocked
};

// Identity is the object's address, compared while both hold a reference, so neither a token nor a recycled
// address can stand for an owner (R06, R07).
class DmaOwner : public RefCounted {};

// Stands for the iommufd of a former kernel until the one of this kernel takes over: what a restored group is
// held with. Says under which token, of which session, its successor is to be retrieved.
class HeldOwner final : public DmaOwner {
 public:
  HeldOwner(u64 generation, u64 token) : generation_(generation), token_(token) {}
  u64 generation() const { return generation_; }
  u64 token() const { return token_; }
  bool is_for(u64 generation, u64 token) const { return generation_ == generation && token_ == token; }

 private:
  const u64 generation_;
  const u64 token_;
};

}  // namespace perdure

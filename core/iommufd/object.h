// Objects of one iommufd context and their ids (uapi §2.3).
#pragma once
#include "core/iommu/immutability.h"
#include "core/mem/vec.h"

namespace perdure::iommufd {

enum class ObjectType : u8 { Ioas, HwptPaging, Device, Access };

// Everything here is guarded by the context's lock.
class Object : public RefCounted {
 public:
  explicit Object(ObjectType type) : type_(type) {}
  ObjectType type() const { return type_; }
  u32 id() const { return id_; }
  // Who needs the object beside the table: destroying it answers Ebusy while there are any.
  u32 users = 0;
  // Of an IOAS under its own lock, so that it can be asked while areas change.
  Immutability immutability;

 private:
  friend class ObjectTable;
  const ObjectType type_;
  u32 id_ = 0;
};

template <class T>
T* object_cast(Object* object) {
  return object && object->type() == T::kObjectType ? static_cast<T*>(object) : nullptr;
}

// Ids of a context: the lowest free one at or above 1 is given out, and may be used again at once. An id is reserved
// before its object is complete; until then, finding it fails.
class ObjectTable {
 public:
  explicit ObjectTable(Heap& heap) : slots_(heap) {}

  Result<u32> reserve();  // Enomem
  void release(u32 id);   // a reserved id
  void finalize(u32 id, Ref<Object> object);
  Ref<Object> remove(u32 id);
  Object* find(u32 id) const;  // null: no such object
  // Typed: null for an object of another type, too.
  template <class T>
  T* find_as(u32 id) const {
    return object_cast<T>(find(id));
  }
  // No id is taken, not even by an object to come.
  bool empty() const;
  // The object with the lowest id above `after`, or null: for loops that may change the table.
  Object* next(u32 after) const;

 private:
  struct Slot {
    Ref<Object> object;
    bool taken = false;
  };
  Vec<Slot> slots_;  // of ids 1, 2, …
  usize maybe_free_ = 0;
};

}  // namespace perdure::iommufd
